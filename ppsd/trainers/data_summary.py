"""What a run was trained on, folder by folder, for the notes in a LoRA file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppsd.data.indexed import IndexedSource

_TAGS = 5000
_CAPTIONS = 10_000  # of a Hugging Face data set each takes 4 ms


@dataclass
class FolderSummary:
    """images: how many; repeats: how often an epoch has each. tags: of the captions, by how many images have them;
    of large folders, of the first ones."""

    name: str
    repeats: int
    is_class: bool = False
    images: int = 0
    tags: Counter[str] = field(default_factory=Counter)


def summarize(sources: Sequence[Any]) -> list[FolderSummary]:
    """Of image folders and data sets, whose captions are known without reading an image; streams say nothing.

    Folders that kohya's convention names (10_a dog) are told apart. The second source of DreamBooth has the class.
    """
    found: dict[tuple[str, int, bool], FolderSummary] = {}
    for place, source in enumerate(sources):
        if not isinstance(source, IndexedSource):
            continue
        for index in range(len(source.records)):
            folder = Path(source.records.where(index)).parent.name
            name = folder if re.match(r"\d+_", folder) else source.name
            key = (name, int(source.counts[index]), place > 0)
            summary = found.setdefault(key, FolderSummary(*key))
            summary.images += 1
            if summary.images > _CAPTIONS or len(summary.tags) >= _TAGS:
                continue
            caption = source.records.caption(index)
            if caption:
                summary.tags.update({tag.strip() for tag in caption.split(",") if tag.strip()})
    return list(found.values())
