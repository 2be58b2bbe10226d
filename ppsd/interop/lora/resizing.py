"""LoRA of other ranks: the best approximation of what it adds (Eckart and Young), as kohya's resize_lora.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional

import numpy as np

from ppsd.adapters.lora import DOWN
from ppsd.adapters.places import Place
from ppsd.interop.lora.joining import ShapeOf, lora_factors
from ppsd.interop.lora.lora_file import Layers
from ppsd.interop.lora.low_rank import (
    ZERO,
    Factors,
    kept_norm,
    rank_by_norm,
    rank_by_ratio,
    rank_by_sum,
    svd_of_lora,
    truncated,
)

METHODS: Mapping[str, Callable[[np.ndarray, float], int]] = {
    "sv_ratio": rank_by_ratio,
    "sv_fro": rank_by_norm,
    "sv_cumulative": rank_by_sum,
}
"""kohya's names. Its script takes one rank more than these formulas ask for."""


@dataclass(frozen=True)
class Wanted:
    """rank, conv_rank: the most ranks of a layer, the second of convolutions larger than 1 x 1; None: no limit.

    method: of METHODS, with its parameter; "" takes the ranks as they are.
    """

    rank: Optional[int] = None
    conv_rank: Optional[int] = None
    method: str = ""
    param: float = 0.0

    def limit(self, down: np.ndarray) -> Optional[int]:
        return self.conv_rank if math.prod(down.shape[2:]) > 1 else self.rank


class Resized(NamedTuple):
    """What became of one layer. kept: share of the Frobenius norm."""

    place: Place
    old_rank: int
    rank: int
    kept: float


def resized(
    layers: Layers, wanted: Wanted, shape_of: ShapeOf = lambda _: None
) -> tuple[dict[Place, Factors], list[Resized]]:
    """Layers as LoRA, and a line about each. A rank that a layer does not have room for becomes its largest."""
    made, lines = {}, []
    for place, factors in layers.items():
        lora = lora_factors(place, dict(factors), shape_of(place))
        svd, old = svd_of_lora(lora), len(lora[DOWN])
        rank = _rank(svd.values, wanted.limit(lora[DOWN]), wanted)
        made[place] = lora if rank >= old else truncated(lora, svd, rank)
        lines.append(Resized(place, old, min(rank, old), kept_norm(svd.values, rank)))
    return made, lines


def _rank(values: np.ndarray, limit: Optional[int], wanted: Wanted) -> int:
    if values[0] <= ZERO:
        return 1
    rank = METHODS[wanted.method](values, wanted.param) if wanted.method else len(values)
    return min(rank, len(values) if limit is None else limit)
