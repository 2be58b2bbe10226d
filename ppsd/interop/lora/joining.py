"""Several LoRAs as one: their factors side by side, so that its rank is the sum of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np

from ppsd.adapters.base import ALPHA, DORA
from ppsd.adapters.lora import DOWN, UP
from ppsd.adapters.places import Place
from ppsd.interop.lora.changes import WeightedLora, said
from ppsd.interop.lora.equivalents import as_lora, scale_of
from ppsd.interop.lora.low_rank import Factors

ShapeOf = Callable[[Place], Optional[Sequence[int]]]
"""The layer's weight in torch's layout; None where that is not known."""


def joined(loras: Sequence[WeightedLora], shape_of: ShapeOf = lambda _: None) -> dict[Place, Factors]:
    """weight * alpha / rank is multiplied into each `up`, in float32; alpha is the rank.

    LoHa and LoKr become LoRA first, for which the layer's shape may be needed. Raises ValueError for DoRA, whose change
    depends on the base, and for LoRAs of different models.
    """
    places = dict.fromkeys(place for one in loras for place in one.lora.layers if one.weight(place))
    if not places:
        raise ValueError("--lora: with these weights nothing is left")
    return {place: _side_by_side(place, loras, shape_of(place)) for place in places}


def lora_factors(place: Place, factors: Factors, shape: Optional[Sequence[int]]) -> Factors:
    """As LoRA without a core. Raises ValueError where the shape is needed or does not fit."""
    try:
        return as_lora(factors, shape)
    except ValueError as error:
        hint = "" if shape else "; name the pipeline that the LoRA is for"
        raise ValueError(f"{said(place)}: {error}{hint}") from error


def _side_by_side(place: Place, loras: Sequence[WeightedLora], shape: Optional[Sequence[int]]) -> Factors:
    downs, ups = [], []
    for one in loras:
        weight = one.weight(place)
        if place not in one.lora.layers or not weight:
            continue
        factors = lora_factors(place, one.lora.layers[place], shape)
        if DORA in factors:
            raise ValueError(
                f"{one.path}: {said(place)} is a DoRA, whose change depends on the base: merge it into a pipeline"
            )
        downs.append(factors[DOWN])
        ups.append((factors[UP].astype(np.float64) * (weight * scale_of(factors))).astype(np.float32))
    _check(place, ups, downs)
    like = max(downs, key=lambda down: down.ndim)  # a 1 x 1 convolution may be written [r,in]
    down = np.concatenate([down.reshape(len(down), *like.shape[1:]) for down in downs])
    up = np.concatenate([up.reshape(*up.shape[:2], *[1] * len(like.shape[2:])) for up in ups], axis=1)
    return {DOWN: down, UP: up, ALPHA: np.asarray(len(down), np.float32)}


def _check(place: Place, ups: Sequence[np.ndarray], downs: Sequence[np.ndarray]) -> None:
    shapes = [[len(up), *down.shape[1:]] for up, down in zip(ups, downs)]
    if len({(shape[0], math.prod(shape[1:])) for shape in shapes}) > 1:
        raise ValueError(
            f"{said(place)}: the LoRAs are for different base models: weights of {' and '.join(map(str, shapes))}"
        )
