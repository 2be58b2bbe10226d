"""The rows of a Hugging Face data set, by number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np

from ppsd.data.buckets import Size
from ppsd.data.decode import upright_size
from ppsd.formats.extras import CAPTION_KEYS, plain, split_row
from ppsd.formats.hf_dataset import image_columns, text_columns
from ppsd.formats.image_bytes import check_size, read_image_file
from ppsd.formats.items import outside
from ppsd.formats.parquet import IMAGE_COLUMNS, NO_IMAGE_BYTES
from ppsd.types import BadRecord, Record

if TYPE_CHECKING:
    from datasets import Dataset

_LOOKED_AT = 16


class DatasetRecords:
    """Rows of a data set (see ppsd.formats.hf_dataset.open_dataset) that is in the folder or file `name`.

    Without an image_column it is `image` or another usual one, without a caption_column `text`, or else `caption`. An
    image_column of texts has the paths of files. Further columns are meta, images among them as their bytes.
    more_images: columns of further images, which may be of texts, too; what is wrong with one is a BadRecord in the
    meta. Their files must be in the folder of the data set. Raises ValueError naming the flag for a column that is not
    there.
    """

    def __init__(
        self,
        dataset: Dataset,
        name: str,
        image_column: Optional[str],
        caption_column: Optional[str],
        max_image_pixels: int,
        caption: Optional[str] = None,
        more_images: Sequence[str] = (),
    ) -> None:
        self._dataset, self._name, self._max_pixels, self._default = dataset, name, max_image_pixels, caption
        self._folder = Path(name).parent if Path(name).is_file() else Path(name)
        images = image_columns(dataset)
        texts = [column for column in dataset.column_names if column not in images]
        paths = [image_column] if image_column in text_columns(dataset) else []
        self._image = _column("image", image_column, IMAGE_COLUMNS, [*images, *paths], name)
        self._caption: Optional[str] = None
        if caption is None or caption_column is not None:
            self._caption = _column("caption", caption_column, ("text", *CAPTION_KEYS), texts, name)
        paths = [column for column in more_images if column in text_columns(dataset)]
        self._wanted = [column for column in (*images, *paths) if column in more_images and column != self._image]
        self._images = list(dict.fromkeys([*images, *paths]))
        self._pictures = dataset.select_columns([self._image])
        self._texts = dataset.select_columns([] if self._caption is None else [self._caption])

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Union[Record, BadRecord]:
        row = self._dataset[index]
        image = self._bytes(row.pop(self._image), self._image)
        if isinstance(image, BadRecord):
            return image
        others = {key: self._bytes(row.pop(key), key) for key in self._images if row.get(key) not in (None, "")}
        row = plain(row)
        if self._caption is None:
            row = {"text": self._default, **row}
        found = split_row(row, self._caption)
        if isinstance(found, BadRecord):
            return found
        caption, more_captions, meta = found
        meta.update(
            (key, data) for key, data in others.items() if key in self._wanted or not isinstance(data, BadRecord)
        )
        return Record(image, caption, meta, more_captions)

    def size(self, index: int) -> Union[Size, BadRecord]:
        image = self._bytes(self._pictures[index][self._image], self._image)
        return image if isinstance(image, BadRecord) else upright_size(image, self._max_pixels)

    def where(self, index: int) -> str:
        return f"{self._name}, row {index}"

    def caption(self, index: int) -> Optional[str]:
        if self._caption is None:
            return self._default
        found = self._texts[index][self._caption]
        first = found[0] if isinstance(found, list) and found else found
        return first if isinstance(first, str) else None

    def key(self, index: int) -> bytes:
        """A hash of the image: rows have no names, and their numbers change with their order."""
        image = self._bytes(self._pictures[index][self._image], self._image)
        return b"" if isinstance(image, BadRecord) else hashlib.blake2b(image, digest_size=16).digest()

    def digest(self) -> str:
        """Of the number of rows, the columns and some of the images."""
        count = len(self)
        looked_at = np.unique(np.linspace(0, count - 1, _LOOKED_AT).astype(int)).tolist() if count else []
        facts = [count, self._dataset.column_names, [self.key(index) for index in looked_at]]
        return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    def _bytes(self, value: Any, column: str) -> Union[bytes, BadRecord]:
        """The bytes of an image file; the path of one that only has that is relative to the folder of the data set."""
        path = None
        if isinstance(value, Mapping):
            value, path = value.get("bytes"), value.get("path")
        elif isinstance(value, str):
            value, path = None, value
        if value is None and path:
            file = self._folder / path
            refused = outside(file, self._folder) if column != self._image else None
            return refused or read_image_file(file)
        if value is None:
            return BadRecord(NO_IMAGE_BYTES, f"column {column!r}")
        return check_size(len(value), f"column {column!r}") or bytes(value)


def _column(what: str, asked: Optional[str], usual: tuple[str, ...], there: list[str], name: str) -> str:
    names = usual if asked is None else (asked,)
    found = next((column for column in names if column in there), None)
    if found is None:
        wanted = f"--{what}_column {asked}" if asked else f"--{what}_column is needed: {' or '.join(usual)}"
        raise ValueError(f"{wanted} is none of the {what} columns of {name}: {', '.join(there) or 'there are none'}")
    return found
