"""What LoRA files change of a pipeline's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import paddle

from ppsd.adapters.algorithms import adapter_of
from ppsd.adapters.base import DORA
from ppsd.adapters.places import Place
from ppsd.formats.atomic import naming
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.model_weights import Component, shape_at
from ppsd.interop.lora.opening import open_lora
from ppsd.interop.lora.reading import read_lora


@dataclass(frozen=True)
class WeightedLora:
    """A LoRA file, and the multiple of what it changes, of the UNet and of text encoders. sha256: of the file."""

    path: Path
    lora: LoraFile
    unet_weight: float
    text_encoder_weight: float
    sha256: str

    def weight(self, place: Place) -> float:
        return self.unet_weight if place.part == "unet" else self.text_encoder_weight

    def facts(self) -> dict[str, object]:
        """What a file that was made with it says of it."""
        weights = {"weight": self.unet_weight, "text_encoder_weight": self.text_encoder_weight}
        return {"name": self.path.name, "sha256": self.sha256, **weights}


def read_weighted(
    path: str, weight: float, text_encoder_weight: Optional[float] = None, layers_per_block: Optional[int] = None
) -> WeightedLora:
    """Raises ValueError for what `read_lora` refuses, NaN among them."""
    file = open_lora(path).path
    with naming(file):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    other = weight if text_encoder_weight is None else text_encoder_weight
    return WeightedLora(file, read_lora(file, layers_per_block), weight, other, digest)


def check_fit(loras: Sequence[WeightedLora], parts: Mapping[str, Component], folder: Path) -> None:
    """Raise ValueError, naming all layers that `folder` does not have, or the shapes of those that do not fit."""
    for one in loras:
        shapes = {place: shape_at(dict(parts), place) for place in one.lora.layers}
        missing = [said(place) for place, shape in shapes.items() if shape is None]
        if missing:
            raise ValueError(
                f"{one.path}: {len(missing)} of its {len(shapes)} layers are not in {folder}, so it is for another base"
                f" model: {', '.join(missing)}"
            )
        wrong = [(place, misfit(one.lora.layers[place], shape)) for place, shape in shapes.items() if shape]
        texts = [f"{said(place)}: {text}" for place, text in wrong if text]
        if texts:
            raise ValueError(
                f"{one.path} is for another base model than {folder}: {len(texts)} of its {len(shapes)} layers do not"
                f" fit. {'; '.join(texts[:3])}"
            )


def misfit(factors: Mapping[str, np.ndarray], shape: Sequence[int]) -> Optional[str]:
    """Why factors are not of a layer whose weight has this shape; None where they are."""
    try:
        adapter_of(factors, shape)
    except ValueError as error:
        return str(error)
    return None


def change(loras: Sequence[WeightedLora], place: Place, weight: np.ndarray) -> np.ndarray:
    """The sum of what they add to `weight`: both float64, in torch's layout.

    In float64, so that another processor's order of summing, a digit in the sixteenth place, comes to the same float32.
    """
    total = np.zeros(weight.shape)
    for one in loras:
        if place in one.lora.layers and one.weight(place):
            total += one.weight(place) * delta(one.lora.layers[place], weight)
    return total


def delta(factors: Mapping[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
    """The change by one adapter; weight: the layer's own, which DoRA goes by. float64, in torch's layout."""
    adapter = adapter_of(factors, weight.shape)
    adapter.to(dtype="float64")
    with paddle.no_grad():
        own = paddle.to_tensor(np.ascontiguousarray(weight)) if adapter.decomposes else None
        return np.asarray(adapter.delta(own).numpy())


def touched(loras: Sequence[WeightedLora]) -> set[Place]:
    """Layers whose weights change."""
    return {place for one in loras for place in one.lora.layers if one.weight(place)}


def depends_on_weight(loras: Sequence[WeightedLora], place: Place) -> bool:
    """Whether a DoRA is among the changes of a layer."""
    return any(DORA in one.lora.layers.get(place, ()) and one.weight(place) for one in loras)


def said(place: Place) -> str:
    return f"{place.part}.{place.path}"
