"""The images of a folder, by number."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Optional, Union

import numpy as np

from ppsd.data.buckets import Size
from ppsd.data.decode import upright_size
from ppsd.data.jpeg_header import plain_jpeg_size
from ppsd.formats.folder_index import FolderIndex
from ppsd.formats.image_bytes import read_image_file
from ppsd.formats.image_folder import read_item
from ppsd.formats.lines import NO_CAPTION
from ppsd.types import BadRecord, Record

_HEADER_BYTES = 2**15


class FolderRecords:
    """The images of an index that have a caption, or all of them: `caption` is for those that have none.

    A record's meta has the other columns of its row of metadata, those of ppsd.formats.items.IMAGE_COLUMNS as paths,
    and the words of a folder `10_a dog` as class_token.
    """

    def __init__(self, index: FolderIndex, max_image_pixels: int, caption: Optional[str] = None) -> None:
        self._index, self._max_pixels, self._caption = index, max_image_pixels, caption
        captioned = np.array([index.has_caption(number) for number in range(len(index))], bool)
        self.indices = np.flatnonzero(captioned | (caption is not None)).astype(np.int32)
        self.bad: list[tuple[str, BadRecord]] = [*index.bad]
        for number in np.flatnonzero(~captioned) if caption is None else ():
            self.bad.append((str(index.path(int(number))), BadRecord(NO_CAPTION, "no .txt or .caption file beside it")))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Union[Record, BadRecord]:
        item = self._index[int(self.indices[number])]
        if item.caption is None:
            item = replace(item, caption=self._caption)
        if item.class_token is not None:
            item = replace(item, meta={"class_token": item.class_token, **item.meta})
        return read_item(str(item.image), item)

    @property
    def repeats(self) -> np.ndarray:
        """What the names of folders say: int32 [N]."""
        return self._index.repeats[self.indices]

    def path(self, number: int) -> Path:
        return self._index.path(int(self.indices[number]))

    def size(self, number: int) -> Union[Size, BadRecord]:
        path = self.path(number)
        try:
            with open(path, "rb", buffering=0) as file:
                size = plain_jpeg_size(file.read(_HEADER_BYTES), self._max_pixels)
        except OSError:  # which read_image_file says in its way
            size = None
        if size is not None:
            return size
        data = read_image_file(path)
        return data if isinstance(data, BadRecord) else upright_size(data, self._max_pixels)

    def where(self, number: int) -> str:
        return str(self.path(number))

    def caption(self, number: int) -> Optional[str]:
        found = self._index.caption(int(self.indices[number]))
        return self._caption if found is None else found

    def key(self, number: int) -> bytes:
        return os.fsencode(self._index.name(int(self.indices[number])))

    def digest(self) -> str:
        return self._index.digest()
