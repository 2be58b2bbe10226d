"""Captions with learned tokens: templates, and the vectors that a token stands for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data.captioner import Captioner, captioned
from ppsd.data.indexed import IndexedSource
from ppsd.data.learned_tokens import expander
from ppsd.data.source import RecordSource
from ppsd.data.templates import OBJECT, STYLE, TEMPLATES, read_templates
from ppsd.data.tokens import TokenizeCaptions
from ppsd.models.placeholder import add_tokens
from ppsd.types import BadRecord, Record
from tests.tiny import tiny_tokenizer


def learned(**counts: int) -> Any:
    tokenizer = tiny_tokenizer()
    add_tokens(tokenizer, {f"<{name}>": count for name, count in counts.items()})
    return tokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <toy> on <hat>", "a <toy> <toy>_1 <toy>_2 on <hat>"),
        ("<toy><toy>", "<toy> <toy>_1 <toy>_2<toy> <toy>_1 <toy>_2"),
        ("a <toy> <toy>_1 <toy>_2!", "a <toy> <toy>_1 <toy>_2!"),
        ("only <toy>_1", "only <toy>_1"),
        ("no token", "no token"),
    ],
)
def test_a_token_stands_for_all_of_its_vectors(text: str, expected: str) -> None:
    expand = expander(learned(toy=3, hat=1))
    assert expand(text) == expected
    assert expand(expand(text)) == expected


def test_ids_are_the_tokenizers_own() -> None:
    tokenizer = learned(toy=12, hat=1)
    tokenize, expand = TokenizeCaptions(tokenizer, 77), expander(tokenizer)
    first = len(tokenizer) - 13
    for caption in ("A <toy>s red<hat> x", "<toy>", "it's <toy>_11 of <hat>", "<hat>" * 90, "größe <toy>"):
        expected = tokenizer(expand(caption), padding="max_length", truncation=True, max_length=77)["input_ids"]
        np.testing.assert_array_equal(tokenize(caption), expected)
    ids = tokenize("a <toy> on <hat>").tolist()
    assert ids[2:14] == list(range(first, first + 12))
    assert ids[15] == first + 12


def test_the_public_templates() -> None:
    assert (len(OBJECT), len(STYLE)) == (27, 19)
    assert (OBJECT[0], OBJECT[-1]) == ("a photo of a {}", "a photo of a small {}")
    assert (STYLE[0], STYLE[-1]) == ("a painting in the style of {}", "a large painting in the style of {}")
    assert all(template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates)


def test_templates_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("a [name] at home\n\n{} again\n", encoding="utf-8")
    assert read_templates(str(file), "template_file") == ("a {} at home", "{} again")
    file.write_text("a [name]\nno place\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"--template_file .*own.txt:2: \{\} must be in it once"):
        read_templates(str(file), "template_file")
    with pytest.raises(ValueError, match=r"--template_file .*missing.txt: cannot be read"):
        read_templates(str(tmp_path / "missing.txt"), "template_file")


RECORDS = [Record(b"", "plain"), BadRecord("broken"), Record(b"", "plain", more_captions=("has <toy>", "<toy>, too"))]
EXPECTED = [("a <toy>", ("the <toy>",)), None, ("has <toy>", ("<toy>, too",))]


class Few:
    def __len__(self) -> int:
        return len(RECORDS)

    def __getitem__(self, index: int) -> Any:
        return RECORDS[index]

    def digest(self) -> str:
        return "digest"


def read(path: str, start: int = 0, *, every: int = 1, offset: int = 0) -> Iterator[tuple[int, Any]]:
    yield from enumerate(RECORDS, 1)


def captions(record: Any) -> Any:
    return None if isinstance(record, BadRecord) else (record.caption, record.more_captions)


def test_templates_are_for_records_without_the_token() -> None:
    captioner = Captioner(("<toy>",), ("a {}", "the {}"))
    stream = captioned(RecordSource("s", ["part"], read), captioner)
    assert isinstance(stream, RecordSource)
    assert [captions(record) for _, record in stream.read("part")] == EXPECTED
    indexed = captioned(IndexedSource("i", Few()), captioner)  # type: ignore[arg-type]  no sizes are asked for
    assert isinstance(indexed, IndexedSource)
    assert [captions(indexed.records[i]) for i in range(3)] == EXPECTED
    assert indexed.records.digest() == "digest"
