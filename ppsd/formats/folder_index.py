"""The index of a folder of images: what its items are, in little memory, without a look into an image."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ppsd.formats.atomic import PathLike
from ppsd.formats.image_folder import read_image_folder
from ppsd.formats.items import FolderItem
from ppsd.formats.packed import Packed, Packer
from ppsd.types import BadRecord

_SIZED = 16


class FolderIndex:
    """The items of `root`, by number. repeats int32 [N]. bad: what could not be taken, (where, why)."""

    def __init__(
        self, root: Path, names: Packed, captions: Packed, extras: Packed, repeats: np.ndarray, bad: list
    ) -> None:
        self.root, self.repeats = root, repeats
        self.bad: list[tuple[str, BadRecord]] = bad
        self._names, self._captions, self._extras = names, captions, extras

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> FolderItem:
        captioned, more_captions, meta, class_token = pickle.loads(self._extras[index])
        caption = self._captions[index].decode() if captioned else None
        return FolderItem(self.path(index), caption, meta, int(self.repeats[index]), class_token, more_captions)

    def has_caption(self, index: int) -> bool:
        return bool(pickle.loads(self._extras[index])[0])

    def caption(self, index: int) -> Optional[str]:
        """The first one."""
        return self._captions[index].decode() if self.has_caption(index) else None

    def name(self, index: int) -> str:
        """The path of an image, relative to the folder where it lies in it."""
        return os.fsdecode(self._names[index])

    def path(self, index: int) -> Path:
        return self.root / self.name(index)

    def digest(self) -> str:
        """A hash of the names of the images, in their order, and of the sizes of the first ones in bytes."""
        names = hashlib.blake2b(digest_size=8)
        for name in self._names:
            names.update(name + b"\0")
        names.update(repr([_size(self.path(index)) for index in range(min(_SIZED, len(self)))]).encode())
        return names.hexdigest()

    @property
    def nbytes(self) -> int:
        """What it takes of memory, but for `bad`."""
        return sum(packed.nbytes for packed in (self._names, self._captions, self._extras)) + self.repeats.nbytes


def index_folder(
    path: PathLike, image_column: str = "file_name", caption_column: str = "text", more_images: Sequence[str] = ()
) -> FolderIndex:
    """The items that read_image_folder gives, and in their order. Raises what it raises."""
    root = Path(path)
    return _index(root, read_image_folder(root, image_column, caption_column, more_images))


def _index(root: Path, items: Iterable[tuple[str, FolderItem | BadRecord]]) -> FolderIndex:
    names, captions, extras = Packer(), Packer(), Packer()
    repeats, bad = [], []
    for where, item in items:
        if isinstance(item, BadRecord):
            bad.append((where, item))
            continue
        names.add(os.fsencode(_relative(item.image, root)))
        captions.add((item.caption or "").encode())
        extras.add(pickle.dumps((item.caption is not None, item.more_captions, dict(item.meta), item.class_token)))
        repeats.append(item.repeats)
    packed = (names.packed(), captions.packed(), extras.packed())
    return FolderIndex(root, *packed, np.array(repeats, np.int32), bad)


def _relative(path: Path, root: Path) -> str:
    text, prefix = str(path), f"{root}{os.sep}"
    return text[len(prefix) :] if text.startswith(prefix) else os.path.abspath(text)


def _size(path: Path) -> int:
    """Bytes; -1 where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
