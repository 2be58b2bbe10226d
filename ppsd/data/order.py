"""Which lane reads what in which epoch: pure functions of a few numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ppsd.data.seeds import Draw, permutation


class Unit(NamedTuple):
    """The lines of one part whose number n (from 1) has (n - 1) % every == offset; by default all of them."""

    part: int
    every: int = 1
    offset: int = 0


@lru_cache(maxsize=8)
def epoch_order(num_parts: int, lanes: int, seed: int, epoch: int) -> tuple[tuple[Unit, ...], ...]:
    """The units of each lane, in reading order. Together they hold every line of every part exactly once.

    With at least as many parts as lanes the units are whole parts; otherwise parts are split by line so that no lane
    is without a unit.
    """
    parts = [int(part) for part in permutation(num_parts, seed, Draw.PARTS, epoch)]
    owners = [int(lane) for lane in permutation(lanes, seed, Draw.LANES, epoch)]
    dealt: list[list[Unit]] = [[] for _ in range(lanes)]
    if num_parts >= lanes:
        for index, part in enumerate(parts):
            dealt[owners[index % lanes]].append(Unit(part))
    else:
        for index, lane in enumerate(owners):
            offset, slot = divmod(index, num_parts)
            dealt[lane].append(Unit(parts[slot], len(range(slot, lanes, num_parts)), offset))
    return tuple(tuple(units) for units in dealt)


def borrow_order(num_parts: int, seed: int, epoch: int, lane: int) -> tuple[Unit, ...]:
    """All parts, whole, in the order in which a lane tries them when none of its own records could be used."""
    return tuple(Unit(int(part)) for part in permutation(num_parts, seed, Draw.BORROW, epoch, lane))
