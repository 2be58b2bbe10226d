"""Damage to bytes as disks, networks and broken writers cause it, drawn by hypothesis; for tests of corruption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings, strategies

KINDS = ("flip", "cut", "swap", "repeat", "remove")


@dataclass(frozen=True)
class Damage:
    """One kind of damage at places given as fractions of the length, over at most `size` bytes."""

    kind: str
    first: float
    second: float
    size: int
    bit: int = 0

    def __call__(self, data: bytes) -> bytes:
        """`data` with the damage; the same for the same data."""
        start = int(self.first * len(data))
        end = min(len(data), start + self.size)
        if self.kind == "flip":
            byte = data[start : start + 1]
            return data[:start] + bytes(value ^ 1 << self.bit for value in byte) + data[start + 1 :]
        if self.kind == "cut":
            return data[:start]
        if self.kind == "remove":
            return data[:start] + data[end:]
        if self.kind == "repeat":
            return data[:end] + data[start:end] + data[end:]
        return _swapped(data, start, int(self.second * len(data)), self.size)


def _swapped(data: bytes, one: int, two: int, size: int) -> bytes:
    """Two ranges of at most `size` bytes that do not overlap change places."""
    one, two = min(one, two), max(one, two)
    size = min(size, two - one, len(data) - two)
    return data[:one] + data[two : two + size] + data[one + size : two] + data[one : one + size] + data[two + size :]


def damages() -> strategies.SearchStrategy[Damage]:
    """Damage of all kinds, from a bit to several records."""
    place = strategies.floats(0, 1, exclude_max=True, width=32)
    return strategies.builds(
        Damage,
        kind=strategies.sampled_from(KINDS),
        first=place,
        second=place,
        size=strategies.sampled_from([1, 2, 3, 4, 7, 16, 64, 300, 512, 2000]),
        bit=strategies.integers(0, 7),
    )


def examples(count: int) -> Any:
    """`count` examples, the same ones at every run; one that takes 20 s fails."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=20_000,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
