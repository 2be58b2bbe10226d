"""The same change of a weight in other factors, exactly: Tucker as LoCon, LoHa and LoKr as LoRA.

LoHa: (A1 B1) * (A2 B2) = (rows of A1 by rows of A2) (columns of B1 by columns of B2), of rank r1 r2 (Khatri-Rao).
LoKr: kron(A1 B1, A2 B2) = kron(A1, A2) kron(B1, B2), of rank r1 r2 (the mixed product).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from ppsd.adapters.base import ALPHA, DORA
from ppsd.adapters.loha import CORES
from ppsd.adapters.loha import NAMES as LOHA
from ppsd.adapters.lokr import CORE, W1, W1_A, W1_B, W2, W2_A, W2_B
from ppsd.adapters.lora import DOWN, MID, UP
from ppsd.interop.lora.checks import algorithm

Pair = tuple[np.ndarray, np.ndarray]
"""left [m,r], right [r,n], float64; their product is a matrix."""


def rank_of(factors: Mapping[str, np.ndarray]) -> int:
    """What alpha is divided by. Of LoKr it is that of the first factor that is a product; 1 if none is."""
    kind = algorithm(factors)
    if kind == "lora":
        return factors[DOWN].shape[0]
    if kind == "loha":
        return factors[LOHA[1]].shape[0]
    return next((factors[name].shape[0] for name in (W1_B, W2_B) if name in factors), 1)


def scale_of(factors: Mapping[str, np.ndarray]) -> float:
    """alpha / rank; 1 where alpha is missing or 0, and for a LoKr of two whole factors in any case (LyCORIS)."""
    if {W1, W2} <= set(factors):
        return 1.0
    return (float(factors.get(ALPHA, 0.0)) or rank_of(factors)) / rank_of(factors)


def without_core(factors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """LoRA of a convolution with its core (Tucker) multiplied into down [r,in,kh,kw]; any other as it is."""
    if MID not in factors:
        return dict(factors)
    down, mid = factors[DOWN].astype(np.float64), factors[MID].astype(np.float64)
    merged = np.einsum("mnhw,ni->mihw", mid, down.reshape(down.shape[:2]))
    rest = {name: value for name, value in factors.items() if name != MID}
    scale = scale_of(factors)
    return {**rest, DOWN: merged.astype(np.float32), ALPHA: np.asarray(scale * merged.shape[0], np.float32)}


def as_lora(factors: Mapping[str, np.ndarray], shape: Optional[Sequence[int]] = None) -> dict[str, np.ndarray]:
    """LoRA with the same change of the weight, to float32's rounding: down, up, alpha, and dora_scale if there is one.

    shape: of the layer's weight in torch's layout. Factors of a Linear layer, of a 1 x 1 and of another convolution
    can look alike, so it is needed for all of LoHa and LoKr but those with a core or a whole w2 of a convolution.
    A rank that would reach the full one becomes the full one. Raises ValueError for a shape that is not theirs.
    """
    kind = algorithm(factors)
    if kind == "lora":
        return without_core(factors)
    assert kind in ("loha", "lokr"), kind
    up, down = _loha(factors) if kind == "loha" else _lokr(factors)
    shape = tuple(shape) if shape is not None else _shape(factors, kind, len(up))
    if (shape[0], math.prod(shape[1:])) != (up.shape[0], down.shape[1]):
        raise ValueError(f"factors of a weight [{up.shape[0]},{down.shape[1]}] are not for one of {list(shape)}")
    up, down = _not_over_full(up, down)
    ones = [1] * len(shape[2:])
    made = {
        DOWN: down.reshape(len(down), *shape[1:]).astype(np.float32),
        UP: up.reshape(*up.shape, *ones).astype(np.float32),
        ALPHA: np.asarray(scale_of(factors) * len(down), np.float32),
    }
    return {**made, DORA: factors[DORA]} if DORA in factors else made


def _not_over_full(up: np.ndarray, down: np.ndarray) -> Pair:
    return (up, down) if up.shape[1] < min(len(up), down.shape[1]) else _full(up @ down)


def _full(whole: np.ndarray) -> Pair:
    """A matrix is itself times an identity, on the side where that is smaller."""
    m, n = whole.shape
    return (np.eye(m), whole) if m <= n else (whole, np.eye(n))


def _loha(factors: Mapping[str, np.ndarray]) -> Pair:
    left1, right1, left2, right2 = (factors[name].astype(np.float64) for name in LOHA)
    if CORES[0] in factors:
        left1, right1 = left1.T, _core_by(factors[CORES[0]], right1)
        left2, right2 = left2.T, _core_by(factors[CORES[1]], right2)
    rank = left1.shape[1] * left2.shape[1]
    if rank >= min(len(left1), right1.shape[1]):
        return _full((left1 @ right1) * (left2 @ right2))
    up = (left1[:, :, None] * left2[:, None, :]).reshape(len(left1), rank)
    return up, (right1[:, None, :] * right2[None, :, :]).reshape(rank, -1)


def _lokr(factors: Mapping[str, np.ndarray]) -> Pair:
    """Of a convolution, the kernel's places are the last of w2's columns, and so of the result's."""
    first: tuple[np.ndarray, ...] = (factors[W1],) if W1 in factors else (factors[W1_A], factors[W1_B])
    second: tuple[np.ndarray, ...]
    if CORE in factors:
        second = (factors[W2_A].T, _core_by(factors[CORE], factors[W2_B]))
    elif W2 in factors:
        second = (factors[W2].reshape(len(factors[W2]), -1),)
    else:
        second = (factors[W2_A], factors[W2_B])
    (left1, right1), (left2, right2) = _pair(*first), _pair(*second)
    return np.kron(left1, left2), np.kron(right1, right2)


def _pair(*factors: np.ndarray) -> Pair:
    """Of a factor that is whole, or a product already."""
    if len(factors) == 2:
        return factors[0].astype(np.float64), factors[1].astype(np.float64)
    return _full(factors[0].astype(np.float64))


def _core_by(core: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """core [r,q,kh,kw], matrix [q,n] -> [r,n*kh*kw]"""
    return np.einsum("rqhw,qn->rnhw", core.astype(np.float64), matrix.astype(np.float64)).reshape(len(core), -1)


def _shape(factors: Mapping[str, np.ndarray], kind: str, out: int) -> tuple[int, ...]:
    if kind == "loha" and CORES[0] in factors:
        return (out, factors[LOHA[1]].shape[1], *factors[CORES[0]].shape[2:])
    columns = factors[W1].shape[1] if W1 in factors else factors[W1_B].shape[1] if W1_B in factors else 0
    if CORE in factors:
        return (out, columns * factors[W2_B].shape[1], *factors[CORE].shape[2:])
    if W2 in factors and factors[W2].ndim == 4:
        return (out, columns * factors[W2].shape[1], *factors[W2].shape[2:])
    raise ValueError(f"factors of {kind} do not say whether they are a convolution's: the layer's shape is needed")
