"""What all results together say, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ppsd.data.inspection.plan import TILES
from ppsd.data.inspection.result import ROW, PartResult, Tile
from ppsd.data.tally import Tally
from ppsd.formats.urls import shown_url

MAX_ROWS = 4_000_000

PLACED = np.dtype([("source", "<u2"), ("part", "<u4"), *((name, ROW[name]) for name in ROW.names or ())])


@dataclass
class SourceCount:
    """Of one source: parts read, parts that gave nothing, records, and usable ones. all_parts: those of its list.

    tally: why the others are not used.
    """

    name: str
    all_parts: int
    parts: int = 0
    missing: int = 0
    records: int = 0
    used: int = 0
    tally: Tally = field(default_factory=Tally)


class Rows:
    """Rows of records, at most `limit` of them, each with its source and part.

    When there are more, only those are kept whose image has a hash below a bound that is halved each time: a random
    share of the images, with all copies of each, so that shares of the whole are those of what is kept.
    """

    def __init__(self, limit: int = MAX_ROWS) -> None:
        self.share = 1.0
        self._limit, self._pieces, self._count = limit, [np.empty(0, PLACED)], 0

    def add(self, result: PartResult) -> None:
        placed = np.empty(len(result.rows), PLACED)
        placed["source"], placed["part"] = result.source, result.part
        for name in ROW.names or ():
            placed[name] = result.rows[name]
        self._pieces.append(self._kept(placed))
        self._count += len(self._pieces[-1])
        while self._count > self._limit:
            self.share /= 2
            self._pieces = [self._kept(piece) for piece in self._pieces]
            self._count = sum(map(len, self._pieces))

    def all(self) -> np.ndarray:
        self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0]

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.share == 1.0 else rows[rows["content"] < np.uint64(int(self.share * 2**64))]


@dataclass
class Summary:
    """Everything that has been found so far. seconds: of reading and making samples; num_bytes: of image files.

    epoch_used: usable records, those of a part as often as its list names it. sized_parts: parts of which the number of
    records is known; together they have sized_records. failures: parts that could not be read (on), by reason.
    Memory: about 260 MB for MAX_ROWS rows, 1 GB while figures are made of them.
    """

    sources: list[SourceCount]
    tally: Tally = field(default_factory=Tally)
    records: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    epoch_used: int = 0
    sized_parts: int = 0
    sized_records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: Tally = field(default_factory=Tally)
    rows: Rows = field(default_factory=Rows)
    tiles: list[Tile] = field(default_factory=list)

    @classmethod
    def of(cls, names: Sequence[str], parts: Sequence[int]) -> Summary:
        """An empty one for sources of these names and numbers of parts."""
        return cls([SourceCount(name, count) for name, count in zip(names, parts)])

    @property
    def parts(self) -> int:
        """Parts that have been looked at."""
        return sum(source.parts for source in self.sources)

    @property
    def missing(self) -> int:
        """Those of them that gave no record."""
        return sum(source.missing for source in self.sources)

    def add(self, result: PartResult, again: bool = False) -> None:
        """`again`: other records of a part that is counted already."""
        source = self.sources[result.source]
        if not again:
            source.parts += 1
            source.missing += result.missing
            if result.failure is not None:
                examples = result.tally.examples.get(result.failure, [shown_url(result.path)])
                self.failures.add(result.failure, examples[-1])
            if result.estimate is not None:
                self.sized_parts += 1
                self.sized_records += result.estimate
        source.records += result.records
        source.used += result.tally.used
        source.tally.merge(result.tally)
        self.records += result.records
        self.epoch_used += result.tally.used * result.repeats
        self.num_bytes += int(result.rows["num_bytes"].sum(dtype=np.int64))
        self.seconds += result.seconds
        self.tally.merge(result.tally)
        self.kinds.update(result.kinds)
        self.rows.add(result)
        self.tiles = sorted([*self.tiles, *result.tiles], key=lambda tile: tile.chance)[:TILES]
