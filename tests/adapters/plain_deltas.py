"""The change of a weight by the formulas of the files' formats, in numpy: knows nothing of ppsd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

Arrays = Mapping[str, np.ndarray]


def plain_delta(factors: Arrays, shape: Sequence[int], weight: Optional[np.ndarray] = None) -> np.ndarray:
    """float64, in torch's layout. weight: the base's, for DoRA."""
    exact = {name: np.asarray(value, np.float64) for name, value in factors.items()}
    kind = next(name for name in exact if name not in ("alpha", "dora_scale"))[:4]
    product, rank = {"lora": _lora, "hada": _loha, "lokr": _lokr}[kind](exact)
    scale = 1.0 if rank is None else (float(exact.get("alpha", 0)) or rank) / rank
    delta = product.reshape(shape) * scale
    if "dora_scale" not in exact:
        return delta
    base = np.asarray(weight, np.float64)
    own = 0 if exact["dora_scale"].shape[0] == shape[0] else 1
    lengths = np.sqrt(((base + delta) ** 2).sum(axis=tuple(set(range(len(shape))) - {own}), keepdims=True))
    return (base + delta) * exact["dora_scale"] / lengths - base


def _tucker(core: np.ndarray, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """core [r,s,kh,kw], outer [r,out], inner [s,in] -> [out,in,kh,kw]"""
    return np.einsum("rshw,ro,si->oihw", core, outer, inner)


def _lora(factors: Arrays) -> tuple[np.ndarray, Optional[int]]:
    up, down = factors["lora_up.weight"], factors["lora_down.weight"]
    flat_up, flat_down = up.reshape(len(up), -1), down.reshape(len(down), -1)
    if "lora_mid.weight" in factors:
        return _tucker(factors["lora_mid.weight"], flat_up.T, flat_down), len(down)
    return flat_up @ flat_down, len(down)


def _loha(factors: Arrays) -> tuple[np.ndarray, Optional[int]]:
    pairs = [(factors[f"hada_w{i}_a"], factors[f"hada_w{i}_b"]) for i in (1, 2)]
    rank = len(pairs[0][1])
    if "hada_t1" in factors:
        halves = [_tucker(factors[f"hada_t{i}"], *pair) for i, pair in zip((1, 2), pairs)]
    else:
        halves = [a @ b for a, b in pairs]
    return halves[0] * halves[1], rank


def _lokr(factors: Arrays) -> tuple[np.ndarray, Optional[int]]:
    rank = None
    w1, w2 = factors.get("lokr_w1"), factors.get("lokr_w2")
    if w2 is None:
        a, b = factors["lokr_w2_a"], factors["lokr_w2_b"]
        w2, rank = _tucker(factors["lokr_t2"], a, b) if "lokr_t2" in factors else a @ b, len(b)
    if w1 is None:
        w1, rank = factors["lokr_w1_a"] @ factors["lokr_w1_b"], len(factors["lokr_w1_b"])
    return np.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2), rank
