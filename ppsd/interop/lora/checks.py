"""Whether the factors of a layer are whole and fit each other; the layer itself is not at hand here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Optional

import numpy as np

from ppsd.adapters.base import ALPHA, DORA
from ppsd.adapters.loha import CORES
from ppsd.adapters.loha import NAMES as LOHA
from ppsd.adapters.lokr import CORE, W1, W1_A, W1_B, W2, W2_A, W2_B
from ppsd.adapters.lora import DOWN, MID, UP

LORA, LOKR = (DOWN, UP, MID), (W1, W1_A, W1_B, W2, W2_A, W2_B, CORE)
LEAVES = frozenset({ALPHA, DORA, *LORA, *LOHA, *CORES, *LOKR})
"""The last parts of the names that LoRA, LoCon, LoHa and LoKr have in kohya's and LyCORIS's files."""


def algorithm(factors: Mapping[str, np.ndarray]) -> str:
    """lora (LoCon too), loha or lokr; "" if nothing but alpha or dora_scale is there, "mixed" for several."""
    names = set(factors) - {ALPHA, DORA}
    found = [kind for kind, own in (("lora", LORA), ("loha", (*LOHA, *CORES)), ("lokr", LOKR)) if names & set(own)]
    return found[0] if len(found) == 1 else "mixed" if found else ""


def complaint(factors: Mapping[str, np.ndarray]) -> Optional[str]:
    """What is wrong with a layer's factors, if anything is."""
    kind = algorithm(factors)
    if not kind:
        return f"has {', '.join(sorted(factors))} and no factors"
    if kind == "mixed":
        return f"has factors of several algorithms: {', '.join(sorted(factors))}"
    if factors.get(ALPHA, np.zeros([])).ndim:
        return f"has an alpha of the shape {list(factors[ALPHA].shape)}, not one number"
    missing = _missing(kind, set(factors))
    if missing:
        return f"has {', '.join(sorted(set(factors) - {ALPHA}))} without {missing}"
    wrong = {"lora": _lora, "loha": _loha, "lokr": _lokr}[kind](factors)
    if wrong is None and DORA in factors:
        wrong = _dora(factors, kind)
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in factors.items() if name != ALPHA)
    return wrong and f"has factors that do not fit each other ({wrong}): {shapes}"


def _missing(kind: str, names: set[str]) -> str:
    wanted: tuple[set[str], ...] = ({DOWN, UP},)
    if kind == "loha":
        wanted = (set(LOHA), set(CORES)) if names & set(CORES) else (set(LOHA),)
    elif kind == "lokr":
        wanted = (_of_lokr(names, W1, W1_A, W1_B), _of_lokr(names, W2, W2_A, W2_B))
    return ", ".join(sorted(set().union(*wanted) - names))


def _of_lokr(names: set[str], whole: str, left: str, right: str) -> set[str]:
    return {left, right} if names & {left, right} else {whole}


def _lora(factors: Mapping[str, np.ndarray]) -> Optional[str]:
    down, up, mid = factors[DOWN], factors[UP], factors.get(MID)
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or math.prod(up.shape[2:]) != 1:
        return "down is [r,in] or [r,in,kh,kw], up [out,r] or [out,r,1,1]"
    if mid is None:
        return None if up.shape[1] == down.shape[0] else "the ranks differ"
    return None if mid.ndim == 4 and mid.shape[:2] == (up.shape[1], down.shape[0]) else "the ranks differ"


def _loha(factors: Mapping[str, np.ndarray]) -> Optional[str]:
    a1, b1, a2, b2 = (factors[name] for name in LOHA)
    if any(matrix.ndim != 2 for matrix in (a1, b1, a2, b2)):
        return "all but the cores are matrices"
    if a1.shape != a2.shape or b1.shape != b2.shape:
        return "the two products differ in shape"
    cores = [factors[name] for name in CORES if name in factors]
    if not cores:
        return None if a1.shape[1] == b1.shape[0] else "the ranks differ"
    rank = (a1.shape[0], b1.shape[0])
    return None if all(core.ndim == 4 and core.shape[:2] == rank for core in cores) else "the ranks differ"


def _lokr(factors: Mapping[str, np.ndarray]) -> Optional[str]:
    if {W1, W1_A} <= set(factors) or {W2, W2_A} <= set(factors) or {W2, CORE} <= set(factors):
        return "each of w1 and w2 is either whole or a product"
    if any(factors[name].ndim != 2 for name in (W1, W1_A, W1_B, W2_A, W2_B) if name in factors):
        return "all but w2 and t2 are matrices"
    if W2 in factors and factors[W2].ndim not in (2, 4):
        return "w2 is [p,q] or [p,q,kh,kw]"
    if W1_A in factors and factors[W1_A].shape[1] != factors[W1_B].shape[0]:
        return "the ranks differ"
    if CORE in factors:
        core, rank = factors[CORE], (factors[W2_A].shape[0], factors[W2_B].shape[0])
        return None if core.ndim == 4 and core.shape[:2] == rank else "the ranks differ"
    same = W2 in factors or factors[W2_A].shape[1] == factors[W2_B].shape[0]
    return None if same else "the ranks differ"


def _dora(factors: Mapping[str, np.ndarray], kind: str) -> Optional[str]:
    """One length of each output [out,1,...], or of each input [1,in,...]."""
    shape = factors[DORA].shape
    if len(shape) < 2 or sum(size > 1 for size in shape) > 1 or math.prod(shape[2:]) != 1:
        return f"{DORA} is [out,1,...] or [1,in,...]"
    if kind == "lora":
        out, within = factors[UP].shape[0], factors[DOWN].shape[1]
        return None if shape[:2] in ((out, 1), (1, within)) else f"{DORA} is of another layer"
    return None
