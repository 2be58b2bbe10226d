"""The algorithms by name, and an adapter from the factors of a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppsd.adapters.base import ALPHA, DORA, Adapter, Factors
from ppsd.adapters.loha import LoHa
from ppsd.adapters.lokr import LoKr
from ppsd.adapters.lora import LoRA

ALGORITHMS: dict[str, type[Adapter]] = {"lora": LoRA, "locon": LoRA, "loha": LoHa, "lokr": LoKr}


def algorithm_of(leaves: Sequence[str]) -> type[Adapter]:
    """By the names of factors. Raises ValueError for names that are no algorithm's."""
    names = set(leaves) - {ALPHA, DORA}
    for algorithm in ALGORITHMS.values():
        if names and names <= algorithm.leaves:
            return algorithm
    known = ", ".join(sorted(set().union(*(algorithm.leaves for algorithm in ALGORITHMS.values()))))
    raise ValueError(f"{', '.join(sorted(names)) or 'nothing'} is no algorithm's that is known here; there are {known}")


def adapter_of(factors: Factors, shape: Sequence[int]) -> Adapter:
    """shape: of the layer's weight in torch's layout. Raises ValueError for factors that do not make up such a weight.

    NaN and infinite values are refused, too.
    """
    algorithm = algorithm_of(list(factors))
    for name, value in factors.items():
        if not np.isfinite(np.asarray(value, np.float32)).all():
            raise ValueError(f"{name} has values that are no numbers")
    shapes = {name: list(value.shape) for name, value in factors.items() if name != ALPHA}
    try:
        adapter = algorithm(factors, shape)
        product = adapter.product()
    except (ValueError, AttributeError, IndexError, AssertionError) as error:  # the last is einsum's
        raise ValueError(f"factors {shapes} do not belong together") from error
    adapter.shaped(product)
    if adapter.decomposes:
        adapter.magnitude()
    return adapter
