"""Long captions in chunks: the ids that kohya's scripts make (tests/fixtures/long_text)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppdiffusers.transformers import CLIPTokenizer
from safetensors import safe_open

from ppsd.data.config import StreamConfig
from ppsd.data.loader import StreamLoader
from ppsd.data.tokens import TokenizeCaptions, in_chunks
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.tiny import tiny_tokenizer

FIXTURE = Path(__file__).parents[1] / "fixtures" / "long_text"
PADS = {"v1": "<|endoftext|>", "v2": "!"}


def tokenizer_of(version: str) -> Any:
    files = (str(FIXTURE / "tokenizer" / name) for name in ("vocab.json", "merges.txt"))
    return CLIPTokenizer(*files, max_len=77, model_max_length=77, pad_token=PADS[version])


def expected(name: str) -> tuple[list[str], np.ndarray]:
    with safe_open(str(FIXTURE / "expected.safetensors"), "np") as file:
        return json.loads(file.metadata()["captions"])["ids"], file.get_tensor(name)


class Foreign:
    """A tokenizer that ppsd knows no short way for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer(*args, **kwargs)


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("length", [75, 150, 225])
def test_ids_are_kohyas(version: str, length: int, foreign: bool) -> None:
    tokenizer = tokenizer_of(version)
    tokenize = TokenizeCaptions(Foreign(tokenizer) if foreign else tokenizer, 77, chunks=length // 75)
    captions, rows = expected(f"ids.{version}.{length}")
    assert rows.shape == (14, 77 * length // 75)
    for caption, row in zip(captions, rows):
        ids = tokenize(caption)
        assert ids.dtype == np.int64
        assert ids.tolist() == row.tolist(), caption


def test_breaks_and_ends_by_hand() -> None:
    """Chunks of three words: B begin, E end, 0 padding."""
    begin, end = 8, 9
    same = lambda *ids: in_chunks(np.array(ids), 5, end, end).tolist()  # noqa: E731
    other = lambda *ids: in_chunks(np.array(ids), 5, end, 0).tolist()  # noqa: E731
    assert same(begin, 1, 2, 3, 4, end, end, end) == [begin, 1, 2, 3, end, begin, 4, end, end, end]
    assert other(begin, 1, 2, 3, 4, end, 0, 0) == [begin, 1, 2, 3, end, begin, 4, end, 0, 0]
    assert other(begin, 1, 2, end, 0, 0, 0, 0) == [begin, 1, 2, end, 0, begin, end, 0, 0, 0]
    assert other(begin, 1, 2, 3, end, 0, 0, 0) == [begin, 1, 2, 3, end, begin, end, 0, 0, 0]
    assert other(begin, 1, 2, 3, 4, 5, 6, end) == [begin, 1, 2, 3, end, begin, 4, 5, 6, end]


def test_the_loader_gives_chunks(tmp_path: Path) -> None:
    words = [" ".join(["red circle"] * 60), "a"]
    lines = [part_line(text, jpeg_bytes(70, 70)) for text in words]
    lists = write_lists(tmp_path, {"long": [write_lines(tmp_path / "part-000001", lines)]})
    config = StreamConfig(str(lists), resolution=64, max_token_length=150, caption_dropout_rate=0.0)
    assert (config.chunks, config.longest_caption) == (2, 152)
    loader = StreamLoader(config, tiny_tokenizer(), batch_size=4)
    ids = next(iter(loader))["input_ids"].numpy()
    loader.close()
    assert ids.shape == (4, 154)
    tokenizer = tiny_tokenizer()
    long = tokenizer(words[0])["input_ids"][1:-1]
    assert len(long) == 120
    row = next(row for row in ids if row[75] == long[74])
    assert row[1:76].tolist() == long[:75]
    assert row[78:123].tolist() == long[75:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_token_length": 100}, "--max_token_length 100 must be 75 or 150 or 225"),
        (
            {"max_token_length": 150, "max_length": 60},
            "--max_token_length 150 is of chunks of 75 tokens, and --model_max_length 60 of one of 58",
        ),
    ],
)
def test_lengths_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        StreamConfig("x", **settings)
    assert StreamConfig("x", max_token_length=75).longest_caption == 77
    assert StreamConfig("x", max_length=60).longest_caption == 60
