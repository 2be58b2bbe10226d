"""Indexed sources as an inspection sees them: every record, and everything that is none, is a part of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ppsd.data.indexed import IndexedSource
from ppsd.data.inspection.job import RecordName
from ppsd.data.source import RecordSource, Source
from ppsd.data.window import AnyRecord


def as_parts(sources: Sequence[Source]) -> list[RecordSource]:
    """Sources of part files, whatever they are."""
    return [_single(source) if isinstance(source, IndexedSource) else source for source in sources]


def _single(source: IndexedSource) -> RecordSource:
    return RecordSource(source.name, _Names(source), _ReadOne(source), source.weight, source.loss_weight)


class _Names(Sequence[str]):
    def __init__(self, source: IndexedSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source.records) + len(self._source.bad)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        records, bad = self._source.records, self._source.bad
        where = records.where(index) if index < len(records) else bad[index - len(records)][0]
        return RecordName(where, index)


@dataclass(frozen=True)
class _ReadOne:
    source: IndexedSource

    def __call__(
        self, path: str, start: int = 0, *, every: int = 1, offset: int = 0
    ) -> Iterator[tuple[int, AnyRecord]]:
        assert isinstance(path, RecordName)
        records, bad = self.source.records, self.source.bad
        if start == offset == 0:
            index = path.index_in_source
            yield 1, records[index] if index < len(records) else bad[index - len(records)][1]
