"""Indexed sources without files, for the tests of the data room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Union

from ppsd.data.indexed import IndexedSource
from ppsd.data.lane import Lane, LaneSettings, LaneState
from ppsd.types import BadRecord, Record, Sample

AnyRecord = Union[Record, BadRecord]


class Numbered:
    """`count` records whose captions are "0:0", "0:1", ... or what `record_of` says; sizes are those of `size_of`."""

    def __init__(
        self,
        count: int,
        record_of: Callable[[int], AnyRecord] = lambda index: Record(b"", f"0:{index}"),
        size_of: Callable[[int], Any] = lambda index: (64, 64),
    ) -> None:
        self._count, self._record_of, self.size = count, record_of, size_of

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> AnyRecord:
        return self._record_of(index)

    def where(self, index: int) -> str:
        return f"record {index}"

    def key(self, index: int) -> bytes:
        return str(index).encode()

    def digest(self) -> str:
        return f"{self._count} records"


def numbered_source(count: int, repeats: Union[int, Sequence[int]] = 1, **options: Any) -> IndexedSource:
    """Options are those of Numbered and of IndexedSource."""
    known = {name: options.pop(name) for name in ("record_of", "size_of") if name in options}
    return IndexedSource(options.pop("name", "set"), Numbered(count, **known), repeats, **options)


def drawn(settings: LaneSettings, first: int, count: int) -> list[list[Sample]]:
    """Groups number first, first + 1, ... of a run, each from a lane that is opened for it alone."""
    groups = []
    for number in range(first, first + count):
        draws, lane = divmod(number, settings.num_lanes)
        groups.append(Lane(settings, lane, LaneState(draws)).draw()[0])
    return groups


def numbers_of(groups: Iterable[Iterable[Sample]]) -> Counter[int]:
    """How often each record was drawn."""
    return Counter(int(sample.input_ids[1]) for group in groups for sample in group)
