from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ppsd.data import filters
from ppsd.data.decode import CORRUPT_IMAGE, NOT_AN_IMAGE, TOO_MANY_PIXELS
from ppsd.data.filters import Filter
from ppsd.types import BadRecord, LatentRecord, Record
from tests.images import encode, jpeg_bytes, noise_image, png_header_bytes

IMAGE = jpeg_bytes(64, 40)
META = {
    "pwatermark": 0.93,
    "aesthetic": 5,
    "NSFW": "UNLIKELY",
    "similarity": "0.31",
    "tags": ["cat", "dog"],
    "ok": True,
}
RECORD = Record(IMAGE, "a red cat, 红猫", META)


def passes(expression: str, record: Any = RECORD) -> bool:
    return Filter(expression)(record) is None


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("width == 64 and height == 40 and pixels == 2560 and aspect_ratio == 1.6", True),
        ("caption_length == 13 and caption_words == 4", True),
        (f"num_bytes == {len(IMAGE)}", True),
        ("'red' in caption", True),
        ("'red' not in caption", False),
        ("'红猫' in caption", True),
        ("caption == 'a red cat, 红猫'", True),
        ("0.5 < aspect_ratio < 2", True),
        ("0.5 < aspect_ratio < 1.5", False),
        ("NSFW in ['UNLIKELY', 'UNSURE']", True),
        ("NSFW not in ('NSFW',)", True),
        ("aesthetic in {4, 5}", True),
        ("'cat' in tags", True),
        ("'horse' in tags", False),
        ("'UN' in NSFW", True),
        ("similarity > 0.3", True),
        ("similarity * 100 % 10 - 1 < 0.001", True),
        ("-aesthetic + 2 * 3 == +1", True),
        ("not (aesthetic > 4)", False),
        ("aesthetic > 9 or pwatermark > 0.9", True),
        ("ok", True),
        ("ok == False", False),
        ("similarity == None", False),
        ("absent == None or absent > 3", True),
        ("absent is not None and absent > 3", False),
        ("(width > 50) == (height < 50)", True),
        ("  width>=64  ", True),
    ],
)
def test_what_an_expression_says(expression: str, expected: bool) -> None:
    assert passes(expression) is expected


def test_each_condition_is_counted_apart() -> None:
    only = Filter("aesthetic>4 and (pwatermark<0.8 and similarity>0.9) and absent>1")
    assert only(RECORD) == BadRecord("filter: pwatermark<0.8", "pwatermark = 0.93")
    assert Filter("height >= 41  or  width<3")(RECORD) == BadRecord(
        "filter: height >= 41 or width<3", "height = 40, width = 64"
    )
    long = Filter(" or ".join(f"aesthetic > {i}" for i in range(10, 40)))(RECORD)
    assert long is not None
    assert len(long.reason) == len("filter: ") + 100


@pytest.mark.parametrize("value", [None, "high", "", float("nan"), [1], {"a": 1}, "nan", np.float32("nan")])
def test_column_that_holds_no_number_is_not_passed(value: Any) -> None:
    for expression in ("score < 9", "not score < 9", "score != 9", "score + 1 > 0", "-score > 0", "score in [9]"):
        bad = Filter(expression)(Record(IMAGE, "", {"score": value}))
        assert isinstance(bad, BadRecord)
        assert bad.reason == "filter: no score"
        assert "score" in bad.detail
    missing = Filter("width > 1 and score < 9")(Record(IMAGE, "", {}))
    assert missing == BadRecord("filter: no score", "the record has no score")


@pytest.mark.parametrize("value", [0.5, "0.5", " 0.5 ", "5e-1", np.float32(0.5), Decimal("0.5")])
def test_scores_come_in_many_types(value: Any) -> None:
    record = Record(b"", "", {"score": value})
    assert passes("score == 0.5 and 0.4 < score < 0.6", record)
    assert Filter("score > 0.6")(record) is not None


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("False", False), ("true", True), (np.bool_(False), False), (2, True)]
)
def test_column_as_a_condition(value: Any, expected: bool) -> None:
    assert passes("flag", Record(b"", "", {"flag": value})) is expected
    assert passes("not flag", Record(b"", "", {"flag": value})) is not expected
    unsaid = Filter("flag")(Record(b"", "", {"flag": "perhaps"}))
    assert unsaid == BadRecord("filter: no flag", "flag = 'perhaps', not true or false")


def test_size_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Record(encode(noise_image(64, 40), exif=exif), "")
    assert passes("width == 40 and height == 64 and aspect_ratio == 0.625", turned)


def test_header_is_read_only_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(b"not an image", "a cat", {"score": 1})
    assert Filter("score == 1 and caption_words == 2 and num_bytes == 12")(record) is None
    assert Filter("score == 2 and width > 1")(record) == BadRecord("filter: score == 2", "score = 1")
    for data, reason in [(b"not an image", NOT_AN_IMAGE), (png_header_bytes(20000, 20000), TOO_MANY_PIXELS)]:
        bad = Filter("score == 1 and width > 1")(Record(data, "", {"score": 1}))
        assert bad is not None
        assert bad.reason == reason
    assert Filter("width > 1", max_image_pixels=2559)(RECORD).reason == TOO_MANY_PIXELS  # type: ignore[union-attr]
    assert Filter("width > 1", max_image_pixels=2560)(RECORD) is None
    cut = Filter("width > 1")(Record(IMAGE[:20], ""))
    assert cut is not None
    assert cut.reason in (CORRUPT_IMAGE, NOT_AN_IMAGE)
    calls = []
    monkeypatch.setattr(filters, "pixel_size", lambda record, limit: calls.append(1) or (3, 4))
    assert passes("width == 3 and height == 4 and pixels == 12 and aspect_ratio < 1")
    assert calls == [1]


def test_latent_records_have_the_size_of_their_image() -> None:
    record = LatentRecord(np.zeros((8, 4, 6), np.float32), "a cat", {"score": "2"})
    assert passes("width == 48 and height == 32 and num_bytes == 768 and score == 2 and caption_length == 5", record)


def test_arithmetic_that_has_no_result_does_not_pass() -> None:
    assert Filter("1 / (aesthetic - 5) < 1")(RECORD) == BadRecord(
        "filter: 1 / (aesthetic - 5) < 1", "division by zero: aesthetic = 5"
    )
    assert not passes("width % 0 == 0")
    assert not passes(f"{'9' * 400} / 3 > 1 - {'1' * 500} / 7")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "at character 1: "),
        ("width >", "at character"),
        ("width = 3", "at character"),
        ("width > 3; height", "at character"),
        ("open('x')", "at character 1, \"open('x')\": not part of the language"),
        ("caption.upper == 'A'", "at character 1, 'caption.upper': not part"),
        ("'红' in caption and tags[0] == 'cat'", "at character 20, 'tags[0]': not part"),
        ("lambda: 1", "not part"),
        ("width if ok else 1", "not part"),
        ("[x for x in tags]", "not part"),
        ("f'{width}' == '64'", "not part"),
        ("(w := 3) > 2", "not part"),
        ("width ** 2 > 3", "this operator"),
        ("width // 2 > 3", "this operator"),
        ("width & 2", "this operator"),
        ("~width > 3", "~ is not"),
        ("width is 64", "use =="),
        ("width == None", "only whether a column"),
        ("aesthetic < None", "only whether a column"),
        ("None", "None is not a condition"),
        ("width and [1]", "a list is not a condition"),
        ("caption > 3", "'caption > 3': compares a text with a number (caption_length"),
        ("caption * 100000 == ''", "is a text where a number is needed"),
        ("'%99999999d' % width == ''", "is a text where a number is needed"),
        ("(width > 3) + 1 > 1", "is a condition where a number is needed"),
        ("(width > 3) < 1", "a condition can only be"),
        ("aesthetic in []", "numbers only or texts only"),
        ("aesthetic in [1, 'a']", "numbers only or texts only"),
        ("aesthetic in [width]", "numbers only or texts only"),
        ("aesthetic in 3", "expected a text or a list after in"),
        ("3j == 3", "not a number or a text"),
        ("b'a' == 'a'", "not a number or a text"),
        ("... == 1", "not a number or a text"),
        ("width > 3\nand height > 3", "one line"),
        ("width > 3 " + "and width > 3 " * 200, "at most 2000 characters"),
        ("-" * 60 + "width > 3", "more than 50 levels"),
        ("not " * 490 + "width", "nested"),
        ("(" * 900 + "width" + ")" * 900, "nest"),
        ("wid\0th > 3", "null bytes"),
        ("caption == '\ud800'", "surrogates"),
    ],
)
def test_wrong_expression_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is looked at below
        Filter(expression)
    assert str(caught.value).startswith("--filter ")
    assert message in str(caught.value)
    assert "allowed are names, numbers" in str(caught.value)
    assert len(str(caught.value)) < 700


def test_filter_goes_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(Filter("pwatermark < 0.8", 1000)))
    assert repr(copy) == "Filter('pwatermark < 0.8', 1000)"
    assert copy(RECORD) == BadRecord("filter: pwatermark < 0.8", "pwatermark = 0.93")


VALUES: dict[str, Any] = {"a": 3, "b": -0.5, "c": 0, "d": 2.5}
FIXED = {"caption": "a cat", "caption_length": 5, "caption_words": 2, "num_bytes": 0}
numbers = st.recursive(
    st.sampled_from([*VALUES, "caption_length", "caption_words", "num_bytes", "1", "0.25", "7"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%"), inner).map(lambda part: f"({part[0]} {part[1]} {part[2]})"),
        inner.map(lambda part: f"-{part}"),
    ),
    max_leaves=4,
)
texts = st.sampled_from(["caption", "'a'", '"cat"', "'a cat'", "''"])
orders = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
compared = st.one_of(
    st.tuples(numbers, orders, numbers).map(" ".join),
    st.tuples(numbers, orders, numbers, orders, numbers).map(" ".join),
    st.tuples(texts, st.one_of(orders, st.sampled_from(["in", "not in"])), texts).map(" ".join),
    st.tuples(numbers, st.sampled_from(["in [1, 3, -0.5]", "not in (5,)", "in {2.5}"])).map(" ".join),
    numbers,
)
conditions = st.recursive(
    compared,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda part: f"({' '.join(part)})"),
        inner.map(lambda part: f"not ({part})"),
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(conditions)
def test_results_are_those_of_python(expression: str) -> None:
    try:
        expected = bool(eval(expression, {"__builtins__": {}}, {**VALUES, **FIXED}))
    except ZeroDivisionError:
        expected = False
    assert passes(expression, Record(b"", FIXED["caption"], VALUES)) is expected


TOKENS = [
    *"()[]{}<>=!+-*/%,.:'\"#\\~@&|^; ",
    "and",
    "or",
    "not",
    "in",
    "is",
    "None",
    "True",
    "width",
    "x",
    "1",
    "9e999",
]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(TOKENS), max_size=30).map(" ".join)))
@example("'" * 3 + "\\")
@example("x in 'a' 'b'")
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    result: BadRecord | str | None
    try:
        result = Filter(text)(RECORD)
    except ValueError as error:
        result = str(error)
    assert result is None or isinstance(result, BadRecord) or result.startswith("--filter ")
