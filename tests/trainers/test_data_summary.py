"""What a LoRA file says of the folders that it was trained on."""

from __future__ import annotations

from typing import Optional

import numpy as np
import pytest

from ppsd.data.indexed import IndexedSource
from ppsd.trainers import data_summary
from ppsd.trainers.data_summary import summarize


class Captions:
    """Records that are nothing but captions, each read at most once."""

    def __init__(self, texts: list[Optional[str]]) -> None:
        self.texts, self.read = texts, 0

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, index: int) -> str:
        return f"photos/{index}.png"

    def caption(self, index: int) -> Optional[str]:
        self.read += 1
        return self.texts[index]


def source(records: Captions) -> IndexedSource:
    return IndexedSource("photos", records, np.full(len(records), 3))  # type: ignore[arg-type]


def test_tags_are_counted_by_images() -> None:
    (found,) = summarize([source(Captions(["dog, red", "dog,dog, ", None]))])
    assert (found.name, found.repeats, found.is_class, found.images) == ("photos", 3, False, 3)
    assert dict(found.tags) == {"dog": 2, "red": 1}


def test_captions_of_large_folders_are_not_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes milliseconds in a data set of millions."""
    monkeypatch.setattr(data_summary, "_CAPTIONS", 4)
    monkeypatch.setattr(data_summary, "_TAGS", 3)
    same, other = Captions(["a"] * 9), Captions([f"a, {index}" for index in range(9)])
    assert [found.images for found in summarize([source(same)])] == [9]
    assert [len(found.tags) for found in summarize([source(other)])] == [3]
    assert (same.read, other.read) == (4, 2)
