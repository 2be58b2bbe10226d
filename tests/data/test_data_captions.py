"""What becomes of a caption: the order of things, and that all chance is the sample's seed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ppsd.data.captions import make_caption
from ppsd.data.config import StreamConfig
from ppsd.data.sample import SampleMaker
from ppsd.types import LatentRecord

TAGS = "1girl, red hair, smile, hat, outdoors"


def made(caption: str, seed: int = 0, **settings: Any) -> str:
    return make_caption([caption], StreamConfig("x", **{"caption_dropout_rate": 0.0, **settings}), seed)[0]


@pytest.mark.parametrize("caption", ["", " ", "a,b ,, c", " two  spaces\nand a line, ", TAGS])
def test_without_options_a_caption_stays_as_it_is(caption: str) -> None:
    assert {made(caption, seed, keep_tokens=2) for seed in range(20)} == {caption}


def test_share_of_empty_captions() -> None:
    config = StreamConfig("x", caption_dropout_rate=0.1, caption_prefix="p", trigger_words="t")
    results = [make_caption(["a cat"], config, seed) for seed in range(10000)]
    dropped = sum(result == ("", True) for result in results)
    assert 900 < dropped < 1100
    assert set(results) == {("", True), ("t, p a cat", False)}
    assert {made("a cat", seed, caption_dropout_rate=1.0) for seed in range(100)} == {""}


def test_the_same_captions_are_dropped_as_ever() -> None:
    plain = [made("a cat", seed, caption_dropout_rate=0.1) for seed in range(200)]
    first = [19, 26, 31, 38, 42, 43, 65, 72, 76, 83, 134, 144, 181, 186, 199]
    assert [seed for seed, caption in enumerate(plain) if not caption] == first


def test_a_dropped_empty_caption_is_its_own() -> None:
    assert make_caption([""], StreamConfig("x", caption_dropout_rate=1.0), 0) == ("", False)


def test_the_prefix_is_joined_by_a_space_and_counts_for_keep_tokens() -> None:
    """As in kohya's: with "sks," the prefix is a tag of its own, without the comma a part of the first one."""
    assert made(TAGS, caption_prefix="sks") == f"sks {TAGS}"
    for seed in range(20):
        tags = made(TAGS, seed, caption_prefix="sks,", keep_tokens=2, shuffle_caption=True).split(", ")
        assert tags[:2] == ["sks", "1girl"]
        assert made(TAGS, seed, caption_prefix="sks", keep_tokens=1, shuffle_caption=True).startswith("sks 1girl, ")


def test_shuffling_gives_every_order_alike_and_keeps_the_first() -> None:
    orders = Counter(made("k, a,b , c", seed, shuffle_caption=True, keep_tokens=1) for seed in range(6000))
    assert len(orders) == 6
    assert all(order.startswith("k, ") for order in orders)
    assert all(900 < count < 1100 for count in orders.values())
    assert made("k, a, b", 3, shuffle_caption=True, keep_tokens=9) == "k, a, b"


def test_tags_are_dropped_one_by_one_but_not_the_kept() -> None:
    options = {"caption_tag_dropout_rate": 0.25, "keep_tokens": 1}
    results = [made("k, a, b, c", seed, **options).split(", ") for seed in range(4000)]
    assert all(tags[0] == "k" for tags in results)
    assert all(tags == sorted(tags, key="kabc".index) for tags in results)
    shares = [sum(tag in tags for tags in results) / 4000 for tag in "abc"]
    np.testing.assert_allclose(shares, 0.75, atol=0.03)
    both = np.mean([("a" in tags) and ("b" in tags) for tags in results])
    assert both == pytest.approx(0.75**2, abs=0.03)
    assert made("k, a, b", caption_tag_dropout_rate=1.0, keep_tokens=1) == "k"
    assert made("a, b", caption_tag_dropout_rate=1.0) == ""


def test_shuffling_does_not_change_which_tags_are_dropped() -> None:
    for seed in range(50):
        plain = made(TAGS, seed, caption_tag_dropout_rate=0.5)
        shuffled = made(TAGS, seed, caption_tag_dropout_rate=0.5, shuffle_caption=True)
        assert sorted(plain.split(", ")) == sorted(shuffled.split(", "))


def test_undesired_tags_go_and_captions_without_them_stay() -> None:
    unwanted = {"undesired_tags": "hat , red hair,,"}
    assert made(TAGS, **unwanted) == "1girl, smile, outdoors"
    assert made("hat", **unwanted) == ""
    for untouched in ("a girl with red hair ,smile", "Hat,x", ""):
        assert made(untouched, **unwanted) == untouched
    assert made(TAGS, caption_prefix="hat,", **unwanted) == "hat, 1girl, smile, outdoors"


def test_trigger_words_come_first_are_never_moved_or_dropped_nor_said_twice() -> None:
    words = {"trigger_words": "sks, dog"}
    assert made("a photo", **words) == "sks, dog, a photo"
    assert made("", **words) == "sks, dog"
    assert made("dog, on grass, sks", **words) == "sks, dog, on grass"
    assert made("sks, dog", **words) == "sks, dog"
    for seed in range(20):
        changed = {"shuffle_caption": True, "caption_tag_dropout_rate": 0.9, "caption_prefix": "best"}
        tags = made(TAGS, seed, **words, **changed).split(", ")
        assert tags[:2] == ["sks", "dog"]
        assert set(tags[2:]) <= {"best 1girl", *TAGS.split(", ")[1:]}


def test_the_seed_says_it_all() -> None:
    options = {"shuffle_caption": True, "caption_tag_dropout_rate": 0.3}
    assert [made(TAGS, seed, **options) for seed in range(50)] == [made(TAGS, seed, **options) for seed in range(50)]
    assert len({made(TAGS, seed, **options) for seed in range(50)}) > 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption_dropout_rate": 1.5}, "--caption_dropout_rate 1.5 is not between 0 and 1"),
        ({"caption_tag_dropout_rate": -0.1}, "--caption_tag_dropout_rate -0.1 is not between"),
        ({"keep_tokens": -1}, "--keep_tokens -1 is negative"),
        ({"undesired_tags": " ,"}, "--undesired_tags ' ,' names no tag"),
        ({"trigger_words": ""}, "--trigger_words '' names no tag"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamConfig("x", **settings)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("caption_prefix", "a"),
        ("trigger_words", "a"),
        ("undesired_tags", "a"),
        ("shuffle_caption", True),
        ("caption_tag_dropout_rate", 0.1),
    ],
)
def test_the_state_of_another_caption_is_no_use(flag: str, value: Any) -> None:
    record = LatentRecord(np.zeros((8, 8, 8)), "a cat", hidden=np.zeros((77, 16)))
    make = SampleMaker(StreamConfig("x", **{flag: value}), lambda caption: np.zeros(77, np.int64))
    with pytest.raises(ValueError, match=f"--{flag} cannot act"):
        make(record, 0)
