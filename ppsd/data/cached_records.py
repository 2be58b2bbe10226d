"""Records whose latents, or whose captions' hidden states, have been made before; all else of them is as it was.

The order of an epoch, the draws and the position of a run are the same with them and without.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from ppsd.data.buckets import Size
from ppsd.data.captions import make_caption
from ppsd.data.config import StreamConfig
from ppsd.data.decode import upright_size
from ppsd.data.indexed import Records
from ppsd.data.window import AnyRecord
from ppsd.formats.array_store import ArrayStore
from ppsd.formats.latent_part import CORRUPT_LATENTS
from ppsd.formats.lines import NOT_TEXT
from ppsd.types import BadRecord, LatentRecord, Record

CORRUPT_HIDDEN = "corrupt cached text"


_NO_META: Mapping[str, Any] = {}
_LONGEST_TEXT = 1000


class Entry(NamedTuple):
    """What is kept of a record: the keys of its moments and (or None) of its mirror image's, captions and columns.

    images: columns of further images, which are read when they are asked for; image_size: of a record that has some.
    """

    key: str
    mirrored: Optional[str]
    captions: tuple[str, ...]
    meta: Mapping[str, Any] = _NO_META
    images: tuple[str, ...] = ()
    image_size: Optional[Size] = None

    @classmethod
    def of(cls, record: Record, key: str, mirrored: Optional[str]) -> Entry:
        """Of the columns only numbers and short texts: all records are in memory."""
        kept = {name: value for name, value in record.meta.items() if _is_small(value)}
        images = tuple(name for name, value in record.meta.items() if isinstance(value, (bytes, Path, BadRecord)))
        size = upright_size(record.image) if images else None
        captions = (record.caption, *record.more_captions)
        return cls(key, mirrored, captions, kept or _NO_META, images, None if isinstance(size, BadRecord) else size)


def _is_small(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)


class _WithImages(Mapping[str, Any]):
    """The columns that an entry has kept, and those of further images, for which the record is read."""

    def __init__(self, entry: Entry, records: Records, index: int) -> None:
        self._entry, self._records, self._index = entry, records, index

    def __getitem__(self, name: str) -> Any:
        if name not in self._entry.images:
            return self._entry.meta[name]
        record = self._records[self._index]
        return record if isinstance(record, BadRecord) else record.meta[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._entry.meta, *self._entry.images))

    def __len__(self) -> int:
        return len(self._entry.meta) + len(self._entry.images)


class _Wrapped:
    """Other records under their own names and numbers."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def size(self, index: int) -> Union[Size, BadRecord]:
        return self._records.size(index)

    def caption(self, index: int) -> Optional[str]:
        return self._records.caption(index)

    def where(self, index: int) -> str:
        return self._records.where(index)

    def key(self, index: int) -> bytes:
        return self._records.key(index)

    def digest(self) -> str:
        return self._records.digest()


class WithLatents(_Wrapped):
    """LatentRecords of images, which are not read again.

    entries: of each record; of one that has no latents, why. What is not in the store is a BadRecord, too.
    """

    def __init__(self, records: Records, entries: Sequence[Union[Entry, BadRecord]], store: ArrayStore) -> None:
        super().__init__(records)
        self._entries, self._store = entries, store

    def __getitem__(self, index: int) -> AnyRecord:
        entry = self._entries[index]
        if isinstance(entry, BadRecord):
            return entry
        moments = _read(self._store, entry.key, CORRUPT_LATENTS)
        if isinstance(moments, BadRecord):
            return moments
        mirrored = None if entry.mirrored is None else _read(self._store, entry.mirrored, CORRUPT_LATENTS)
        if isinstance(mirrored, BadRecord):
            return mirrored
        meta = _WithImages(entry, self._records, index) if entry.images else entry.meta
        first, *more = entry.captions
        return LatentRecord(moments, first, meta, tuple(more), mirrored=mirrored, image_size=entry.image_size)

    def captions(self, index: int) -> tuple[str, ...]:
        """Of a record that is bad, none."""
        entry = self._entries[index]
        return () if isinstance(entry, BadRecord) else entry.captions


class WithHidden(_Wrapped):
    """Records with the hidden states of the one caption that `config` makes of theirs.

    hidden: a caption's key in the store, by caption; that of the empty one is there.
    """

    def __init__(self, records: Records, config: StreamConfig, hidden: dict[str, str], store: ArrayStore) -> None:
        super().__init__(records)
        self._config, self._hidden, self._store = undropped(config), hidden, store

    def __getitem__(self, index: int) -> AnyRecord:
        record = self._records[index]
        if isinstance(record, BadRecord):
            return record
        caption = final_caption((record.caption, *record.more_captions), self._config)
        if caption not in self._hidden:
            return BadRecord(
                NOT_TEXT, f"the caption {caption[:80]!r} cannot be read, or was another when it was cached"
            )
        hidden = _read(self._store, self._hidden[caption], CORRUPT_HIDDEN)
        empty = _read(self._store, self._hidden[""], CORRUPT_HIDDEN)
        if isinstance(hidden, BadRecord):
            return hidden
        if isinstance(empty, BadRecord):
            return empty
        meta = ChainMap({"empty_hidden": empty}, record.meta)  # type: ignore[arg-type]  # it is only read
        return replace(record, caption=caption, more_captions=(), hidden=hidden, meta=meta)


def undropped(config: StreamConfig) -> StreamConfig:
    """The settings with which no caption is dropped."""
    return replace(config, caption_dropout_rate=0.0)


def final_caption(captions: Sequence[str], config: StreamConfig) -> str:
    """What is trained with where nothing of `config` is up to chance."""
    return make_caption(captions, config, seed=0)[0]


def captions_of(records: Records, index: int) -> tuple[str, ...]:
    """Those of a record, which is read for them unless its latents are cached."""
    if isinstance(records, WithLatents):
        return records.captions(index)
    record = records[index]
    return () if isinstance(record, BadRecord) else (record.caption, *record.more_captions)


def _read(store: ArrayStore, key: str, reason: str) -> Union[np.ndarray, BadRecord]:
    try:
        array = store.read(key)
    except (ValueError, OSError) as error:
        return BadRecord(reason, str(error))
    return BadRecord(reason, f"{store.where(key)} is gone") if array is None else array
