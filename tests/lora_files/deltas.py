"""Random factors of every algorithm, and the change of a weight that they stand for, written down independently."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

Factors = dict[str, np.ndarray]


def random_factors(kind: str, shape: Any, rank: int = 2, alpha: Optional[float] = 3.0, seed: int = 0) -> Factors:
    """float32 factors of the size of 1 for a weight `shape`; kind: lora, tucker, loha, loha-tucker, lokr..."""
    random = np.random.default_rng(seed)
    out, within, *kernel = shape
    size, ones = int(np.prod(kernel)) if kernel else 1, [1] * len(kernel)
    (m, p), (n, q) = _halves(out), _halves(within)
    shapes: dict[str, dict[str, list[int]]] = {
        "lora": {"lora_down.weight": [rank, within, *kernel], "lora_up.weight": [out, rank, *ones]},
        "tucker": {
            "lora_down.weight": [rank, within, 1, 1],
            "lora_mid.weight": [rank, rank, *kernel],
            "lora_up.weight": [out, rank, 1, 1],
        },
        "loha": {f"hada_w{i}_{x}": [out, rank] if x == "a" else [rank, within * size] for i in (1, 2) for x in "ab"},
        "loha-tucker": {
            **{f"hada_w{i}_{x}": [rank, out if x == "a" else within] for i in (1, 2) for x in "ab"},
            **{f"hada_t{i}": [rank, rank, *kernel] for i in (1, 2)},
        },
        "lokr": {"lokr_w1": [m, n], "lokr_w2_a": [p, rank], "lokr_w2_b": [rank, q * size]},
        "lokr-both": {
            **{"lokr_w1_a": [m, rank], "lokr_w1_b": [rank, n]},
            **{"lokr_w2_a": [p, rank], "lokr_w2_b": [rank, q * size]},
        },
        "lokr-tucker": {
            **{"lokr_w1": [m, n], "lokr_t2": [rank, rank, *kernel]},
            **{"lokr_w2_a": [rank, p], "lokr_w2_b": [rank, q]},
        },
        "lokr-whole": {"lokr_w1": [m, n], "lokr_w2": [p, q, *kernel]},
    }
    made = {name: random.standard_normal(s).astype(np.float32) for name, s in shapes[kind].items()}
    return made if alpha is None else {**made, "alpha": np.array(alpha, np.float32)}


def delta_of(factors: Factors, shape: Any) -> np.ndarray:
    """[out,in,...] float64, from the definitions (with loops, where these have them); without dora_scale."""
    f = {name: value.astype(np.float64) for name, value in factors.items()}
    if "lora_up.weight" in f:
        rank, change = f["lora_down.weight"].shape[0], _lora(f)
    elif "hada_w1_a" in f:
        rank, change = f["hada_w1_b"].shape[0], _hada(f, "1") * _hada(f, "2")
    else:
        rank, change = _kronecker(f)
    alpha = float(f.get("alpha", 0.0)) or rank
    return change.reshape(shape) * (alpha / rank)


def _lora(f: Factors) -> np.ndarray:
    up, down = f["lora_up.weight"], f["lora_down.weight"]
    up = up.reshape(up.shape[:2])
    if "lora_mid.weight" in f:
        return np.einsum("om,mnhw,ni->oihw", up, f["lora_mid.weight"], down[:, :, 0, 0])
    return np.tensordot(up, down, 1)


def _hada(f: Factors, i: str) -> np.ndarray:
    a, b = f[f"hada_w{i}_a"], f[f"hada_w{i}_b"]
    core = f.get(f"hada_t{i}")
    return a @ b if core is None else np.einsum("pqhw,po,qi->oihw", core, a, b).reshape(a.shape[1], -1)


def _kronecker(f: Factors) -> tuple[int, np.ndarray]:
    """The rank, and row by row of w1: the blocks w1[i,j] * w2, side by side and below each other."""
    w1 = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    if "lokr_w2" in f:
        w2 = f["lokr_w2"]
    elif "lokr_t2" in f:
        w2 = np.einsum("pqhw,po,qi->oihw", f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
    else:
        w2 = f["lokr_w2_a"] @ f["lokr_w2_b"]
    w2 = w2.reshape(w2.shape[0], -1)
    change = np.concatenate([np.concatenate([value * w2 for value in row], axis=1) for row in w1])
    ranks = [len(f[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in f]
    if not ranks:  # both whole: alpha does not count
        return int(float(f.get("alpha", 1.0)) or 1), change
    return ranks[0], change


def _halves(size: int) -> tuple[int, int]:
    small = next(n for n in range(int(size**0.5), 0, -1) if size % n == 0)
    return small, size // small
