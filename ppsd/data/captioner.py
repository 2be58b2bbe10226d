"""Captions of templates in place of a record's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Optional, Union

from ppsd.data.buckets import Size
from ppsd.data.indexed import IndexedSource, Records
from ppsd.data.source import ReadPart, Source
from ppsd.data.templates import PLACE
from ppsd.data.window import AnyRecord
from ppsd.types import BadRecord


@dataclass(frozen=True)
class Captioner:
    """Gives records their captions: those of their own that have one of `names`, else all templates, filled.

    Which of several is used is for the stream to choose (caption_rule).
    """

    names: tuple[str, ...]
    templates: Sequence[str]

    def __call__(self, record: AnyRecord) -> AnyRecord:
        if isinstance(record, BadRecord):
            return record
        own = [text for text in (record.caption, *record.more_captions) if any(name in text for name in self.names)]
        first, *others = own or [template.replace(PLACE, " ".join(self.names)) for template in self.templates]
        return replace(record, caption=first, more_captions=tuple(others))


def captioned(source: Source, captioner: Captioner) -> Source:
    """The source with other captions."""
    if isinstance(source, IndexedSource):
        return replace(source, records=_CaptionedRecords(source.records, captioner))
    return replace(source, read=_CaptionedParts(source.read, captioner))


@dataclass(frozen=True)
class _CaptionedParts:
    read: ReadPart
    captioner: Captioner

    def __call__(
        self, path: str, start: int = 0, *, every: int = 1, offset: int = 0
    ) -> Iterator[tuple[int, AnyRecord]]:
        for number, record in self.read(path, start, every=every, offset=offset):
            yield number, self.captioner(record)


@dataclass(frozen=True)
class _CaptionedRecords:
    records: Records
    captioner: Captioner

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> AnyRecord:
        return self.captioner(self.records[index])

    def size(self, index: int) -> Union[Size, BadRecord]:
        return self.records.size(index)

    def caption(self, index: int) -> Optional[str]:
        return self.records.caption(index)

    def where(self, index: int) -> str:
        return self.records.where(index)

    def key(self, index: int) -> bytes:
        return self.records.key(index)

    def digest(self) -> str:
        return self.records.digest()
