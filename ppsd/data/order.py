"""Which lane reads what in which epoch: pure functions of a few numbers, in which nothing grows with the parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ppsd.data.seeds import Draw, derive_seed, permutation

_SMALL = 2**14  # shuffled as a list; larger orders are computed number by number
_ROUNDS = 6
_MASK = 2**64 - 1


class Unit(NamedTuple):
    """The lines of one part whose number n (from 1) has (n - 1) % every == offset; by default all of them."""

    part: int
    every: int = 1
    offset: int = 0


class Shuffled(Sequence[int]):
    """A random order of 0..count-1, of which any element is found in constant time and memory.

    Above 16,384 elements a Feistel network of 6 rounds on the smallest even number of bits that holds them, applied
    again where it leaves the range (cycle walking: Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """

    def __init__(self, count: int, *numbers: int) -> None:
        self._count = count
        self._small = _small_permutation(count, *numbers) if count <= _SMALL else None
        self._half = ((count - 1).bit_length() + 1) // 2
        self._keys = [derive_seed(*numbers, turn) for turn in range(_ROUNDS)] if self._small is None else []

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._small is not None:
            return int(self._small[index])
        while (index := self._encrypted(index)) >= self._count:
            pass
        return index

    def _encrypted(self, number: int) -> int:
        mask = (1 << self._half) - 1
        left, right = number >> self._half, number & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        return left << self._half | right


def _mixed(number: int) -> int:
    """The finalizer of SplitMix64 (https://prng.di.unimi.it/splitmix64.c)."""
    number &= _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


@lru_cache(maxsize=16)
def _small_permutation(count: int, *numbers: int) -> np.ndarray:
    return permutation(count, *numbers)


class LaneUnits(Sequence[Unit]):
    """What one lane reads in an epoch, in reading order.

    With at least as many parts as lanes the units are whole parts, dealt out in turn; otherwise parts are split by line
    so that no lane is without a unit.
    """

    def __init__(self, parts: Shuffled, lanes: int, slot: int) -> None:
        self._parts, self._lanes, self._slot = parts, lanes, slot

    def __len__(self) -> int:
        return max(1, -(-(len(self._parts) - self._slot) // self._lanes))

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        count = len(self._parts)
        if count >= self._lanes:
            return Unit(self._parts[self._slot + index * self._lanes])
        offset, part = divmod(self._slot, count)
        return Unit(self._parts[part], len(range(part, self._lanes, count)), offset)


@lru_cache(maxsize=16)
def epoch_order(num_parts: int, lanes: int, seed: int, epoch: int) -> tuple[LaneUnits, ...]:
    """The units of each lane. Together they hold every line of every part exactly once."""
    parts = Shuffled(num_parts, seed, Draw.PARTS, epoch)
    slots = np.argsort(permutation(lanes, seed, Draw.LANES, epoch))
    return tuple(LaneUnits(parts, lanes, int(slot)) for slot in slots)


def borrow_order(num_parts: int, seed: int, epoch: int, lane: int) -> Shuffled:
    """All parts, in the order in which a lane tries them when none of its own records could be used."""
    return Shuffled(num_parts, seed, Draw.BORROW, epoch, lane)
