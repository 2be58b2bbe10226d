"""Which source each sample of a run comes from: exact proportions over short windows, and a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ppsd.data.seeds import Draw, permutation, uniform
from ppsd.data.source import Source

WINDOW = 1000
_GOLDEN = (5**0.5 - 1) / 2


def source_of(sources: Sequence[Source], seed: int, number: int, alternate: bool = False) -> int:
    """The index of the source of draw `number` of the run, counted over all lanes; alternate: they take turns."""
    return number % len(sources) if alternate else mixed_source(sources, seed, number)


def drawn_before(sources: Sequence[Source], seed: int, number: int, alternate: bool = False) -> int:
    """How many of the draws before draw `number` are from the same source."""
    if alternate or len(sources) == 1:
        return number // len(sources)
    window, place = divmod(number, WINDOW)
    ends = cumulative_weights(sources)
    drawn = _window(ends, seed, window)
    source = int(drawn[place])
    return int(_earlier_windows(ends, seed, window)[source]) + int((drawn[:place] == source).sum())


def mixed_source(sources: Sequence[Source], seed: int, number: int) -> int:
    """The index of the source of draw `number` of the run, counted over all lanes.

    Of each WINDOW consecutive draws (from a multiple of WINDOW on) a source of weight w gets w / (sum of weights) *
    WINDOW, rounded up or down: exactly that where it is whole. Systematic sampling in a seeded order; the start moves
    by the golden ratio from window to window, so that what is rounded evens out.
    """
    if len(sources) == 1:
        return 0
    window, place = divmod(number, WINDOW)
    return int(_window(cumulative_weights(sources), seed, window)[place])


def cumulative_weights(sources: Sequence[Source]) -> tuple[float, ...]:
    """Upper ends of the sources' shares of [0, 1)."""
    ends = np.cumsum([1.0 if source.weight is None else source.weight for source in sources])
    return tuple(float(end) for end in ends / ends[-1])


@lru_cache(maxsize=8)
def _window(ends: tuple[float, ...], seed: int, window: int) -> np.ndarray:
    start = (uniform(seed, Draw.SOURCE) + window * _GOLDEN) % 1.0
    numbers = (permutation(WINDOW, seed, Draw.SOURCE, window) + start) / WINDOW
    return np.searchsorted(ends, numbers, side="right").clip(max=len(ends) - 1)


@lru_cache(maxsize=8)
def _earlier_windows(ends: tuple[float, ...], seed: int, window: int) -> np.ndarray:
    """How many draws of the windows before `window` are from each source: int64 [S]. As _window, but for its order."""
    starts = (uniform(seed, Draw.SOURCE) + np.arange(window) * _GOLDEN) % 1.0
    counts = np.zeros(len(ends) + 1, np.int64)
    for index, end in enumerate(ends):
        guess = np.ceil(end * WINDOW - starts)
        near = guess[:, None] + np.arange(-1, 2)  # rounding may make it one more or less
        below = guess - 1 + ((near + starts[:, None]) / WINDOW < end).sum(axis=1)
        counts[index + 1] = below.clip(0, WINDOW).sum()
    counts[-1] = window * WINDOW  # what is not below the last end is the last source's
    return np.diff(counts)
