"""Singular values of what LoRA adds, and LoRA of as few ranks as wanted. All in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ppsd.adapters.base import ALPHA, DORA
from ppsd.adapters.lora import DOWN, UP
from ppsd.interop.lora.equivalents import scale_of

Factors = dict[str, np.ndarray]
ZERO = 1e-6
"""A layer whose largest singular value is not above this adds nothing (kohya's resize_lora.py)."""


class Svd(NamedTuple):
    """left [m,k] diag(values [k]) right [k,n]; the values fall."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @property
    def room(self) -> int:
        """How many ranks there are."""
        return len(self.values)


def svd_of_lora(factors: Mapping[str, np.ndarray]) -> Svd:
    """Of up by down, without alpha: QR of the two thin factors and an SVD of [r,r], not one of [out,in]."""
    up, down = (factors[name].astype(np.float64) for name in (UP, DOWN))
    left, upper = np.linalg.qr(up.reshape(len(up), -1))
    right, lower = np.linalg.qr(down.reshape(len(down), -1).T)
    inner = svd_of(upper @ lower.T)
    return Svd(left @ inner.left, inner.values, inner.right @ right.T)


def svd_of(matrix: np.ndarray) -> Svd:
    return Svd(*np.linalg.svd(matrix, full_matrices=False))


def lora_of(svd: Svd, rank: int, shape: Sequence[int], scale: float = 1.0) -> Factors:
    """The first ranks, for a weight `shape`: float32, with alpha = scale * rank.

    Each factor has the roots of the singular values, so that both are of one size, which float16 needs (kohya's and
    LyCORIS's scripts leave all of them to `up`).
    """
    assert 1 <= rank <= svd.room
    root, ones = np.sqrt(svd.values[:rank]), [1] * len(shape[2:])
    return {
        DOWN: (root[:, None] * svd.right[:rank]).reshape(rank, *shape[1:]).astype(np.float32),
        UP: (svd.left[:, :rank] * root).reshape(-1, rank, *ones).astype(np.float32),
        ALPHA: np.asarray(scale * rank, np.float32),
    }


def truncated(factors: Mapping[str, np.ndarray], svd: Svd, rank: int) -> Factors:
    """LoRA with its first ranks only, of the same alpha / rank; dora_scale stays."""
    down, up = factors[DOWN], factors[UP]
    made = lora_of(svd, rank, (len(up), *down.shape[1:]), scale_of(factors))
    return {**made, DORA: factors[DORA]} if DORA in factors else made


def rank_by_ratio(values: np.ndarray, ratio: float) -> int:
    """kohya's sv_ratio: those above the largest / ratio."""
    return _within(int((values > values[0] / ratio).sum()), values)


def rank_by_norm(values: np.ndarray, share: float) -> int:
    """kohya's sv_fro: as few as keep this share of the Frobenius norm."""
    return rank_by_energy(values, share**2)


def rank_by_sum(values: np.ndarray, share: float) -> int:
    """kohya's sv_cumulative: as few as keep this share of the sum of the singular values."""
    return _fewest(values, share)


def rank_by_energy(values: np.ndarray, share: float) -> int:
    """As few as keep this share of the sum of the squares."""
    return _fewest(values**2, share)


def kept_norm(values: np.ndarray, rank: int) -> float:
    """The share of the Frobenius norm that the first ranks have; 1 where there is nothing."""
    whole = math.sqrt(float((values**2).sum()))
    return math.sqrt(float((values[:rank] ** 2).sum())) / whole if whole else 1.0


def _fewest(parts: np.ndarray, share: float) -> int:
    sums = np.cumsum(parts)
    return _within(int((sums < share * sums[-1] * (1 - 1e-12)).sum()) + 1, parts)


def _within(rank: int, values: np.ndarray) -> int:
    return max(1, min(rank, len(values)))
