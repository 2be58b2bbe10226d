"""Which source each sample of a run comes from: exact proportions over short windows, and a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ppsd.data.seeds import Draw, permutation, uniform
from ppsd.data.source import RecordSource

WINDOW = 1000
_GOLDEN = (5**0.5 - 1) / 2


def mixed_source(sources: Sequence[RecordSource], seed: int, number: int) -> int:
    """The index of the source of draw `number` of the run, counted over all lanes.

    Of each WINDOW consecutive draws (from a multiple of WINDOW on) a source of weight w gets w / (sum of weights) *
    WINDOW, rounded up or down: exactly that where it is whole. Systematic sampling in a seeded order; the start moves
    by the golden ratio from window to window, so that what is rounded evens out.
    """
    if len(sources) == 1:
        return 0
    window, place = divmod(number, WINDOW)
    return int(_window(cumulative_weights(sources), seed, window)[place])


def cumulative_weights(sources: Sequence[RecordSource]) -> tuple[float, ...]:
    """Upper ends of the sources' shares of [0, 1)."""
    ends = np.cumsum([1.0 if source.weight is None else source.weight for source in sources])
    return tuple(float(end) for end in ends / ends[-1])


@lru_cache(maxsize=8)
def _window(ends: tuple[float, ...], seed: int, window: int) -> np.ndarray:
    start = (uniform(seed, Draw.SOURCE) + window * _GOLDEN) % 1.0
    numbers = (permutation(WINDOW, seed, Draw.SOURCE, window) + start) / WINDOW
    return np.searchsorted(ends, numbers, side="right").clip(max=len(ends) - 1)
