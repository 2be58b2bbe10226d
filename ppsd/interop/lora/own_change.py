"""The change of a weight by factors alone, where the layer is not at hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle

from ppsd.adapters.algorithms import adapter_of
from ppsd.adapters.base import DORA
from ppsd.adapters.loha import CORES
from ppsd.adapters.loha import NAMES as LOHA
from ppsd.adapters.lokr import CORE, W1, W1_A, W1_B, W2, W2_A, W2_B
from ppsd.adapters.lora import DOWN, MID, UP
from ppsd.interop.lora.checks import algorithm


def own_shape(factors: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Of the weight, as far as the factors tell: a convolution's may be [out,in*kh*kw]."""
    kind = algorithm(factors)
    if kind == "lora":
        kernel = factors[MID].shape[2:] if MID in factors else factors[DOWN].shape[2:]
        return (len(factors[UP]), factors[DOWN].shape[1], *kernel)
    if kind == "loha":
        if CORES[0] in factors:
            return (factors[LOHA[0]].shape[1], factors[LOHA[1]].shape[1], *factors[CORES[0]].shape[2:])
        return (len(factors[LOHA[0]]), factors[LOHA[1]].shape[1])
    assert kind == "lokr", kind
    m, n = factors[W1].shape if W1 in factors else (len(factors[W1_A]), factors[W1_B].shape[1])
    if W2 in factors:
        p, q, *kernel_of_w2 = factors[W2].shape
        return (m * p, n * q, *kernel_of_w2)
    if CORE in factors:
        return (m * factors[W2_A].shape[1], n * factors[W2_B].shape[1], *factors[CORE].shape[2:])
    return (m * len(factors[W2_A]), n * factors[W2_B].shape[1])


def own_change(factors: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [out,in*kh*kw], scaled; of a DoRA what it is before the lengths are set. Raises ValueError as
    `adapter_of`."""
    adapter = adapter_of({name: value for name, value in factors.items() if name != DORA}, own_shape(factors))
    adapter.to(dtype="float64")
    with paddle.no_grad():
        change = np.asarray(adapter.delta().numpy())
    return change.reshape(len(change), -1)
