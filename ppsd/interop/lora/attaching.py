"""LoRA files on the models of a pipeline: several at once, taken off and put on again without loading the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

import paddle
from paddle import nn

from ppsd.adapters.algorithms import adapter_of
from ppsd.adapters.attach import attach, attached, detach
from ppsd.adapters.base import Adapter
from ppsd.adapters.layers import adaptable, weight_shape
from ppsd.adapters.places import Place
from ppsd.formats.atomic import PathLike
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.reading import read_lora

LARGEST = 1000
"""Weights above are typing errors: they would leave nothing of the model."""
Weighted = tuple[str, float]
"""A file, and the multiple of what it adds."""


class LoraSwitch:
    """models: UNet and text encoder, by the parts' names in ppsd.adapters.places. Files are read once."""

    def __init__(self, models: Mapping[str, nn.Layer]) -> None:
        self._layers = {Place(part, path): layer for part, model in models.items() for path, layer in adaptable(model)}
        unet = models.get("unet")
        self._layers_per_block = None if unet is None else int(unet.config.layers_per_block)
        self._read: dict[str, dict[Place, Adapter]] = {}

    def load(self, path: PathLike) -> dict[Place, Adapter]:
        """The adapters of a file, not yet in use. Raises ValueError for what `read_lora` refuses, and for another
        model's."""
        name = str(path)
        if name not in self._read:
            self._read[name] = adapters_for(read_lora(path, self._layers_per_block), self._layers, name)
        return self._read[name]

    def use(self, wanted: Sequence[Weighted], fuse: bool = False) -> None:
        """Have the models compute with these files and no others. fuse: in the weights themselves, which costs nothing
        when drawing; the base's own are kept and come back."""
        found = [(self.load(path), weight) for path, weight in wanted]
        for layer in self._layers.values():
            detach(layer)
        for adapters, weight in found:
            for place, adapter in adapters.items():
                attach(self._layers[place], adapter, weight)
        if fuse:
            for layer in self._layers.values():
                stand_in = attached(layer)
                if stand_in is not None:
                    stand_in.fuse()


def adapters_for(lora: LoraFile, layers: Mapping[Place, nn.Layer], name: str) -> dict[Place, Adapter]:
    """Of all layers of the file. Raises ValueError, naming `name`, for layers that are missing or of another shape."""
    missing = [f"{place.part}.{place.path}" for place in lora.layers if place not in layers]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} of its {len(lora.layers)} layers are not in this model, e.g."
            f" {', '.join(missing[:3])}: it was made for another one"
        )
    found, wrong = {}, []
    for place, factors in lora.layers.items():
        try:
            adapter = adapter_of(factors, weight_shape(layers[place]))
        except ValueError as error:
            wrong.append(f"{place.part}.{place.path}: {error}")
            continue
        adapter.eval()
        weight = layers[place].weight
        if weight.dtype != paddle.float32:
            adapter.to(dtype=weight.dtype)
        found[place] = adapter
    if wrong:
        raise ValueError(
            f"{name} does not fit this model, in {len(wrong)} of {len(lora.layers)} layers: it was made for another"
            f" one. {'; '.join(wrong[:3])}"
        )
    return found


def models_of(pipe: object) -> dict[str, nn.Layer]:
    """Those of a pipeline, or a bundle, that adapters can be for."""
    parts = ("unet", "text_encoder", "text_encoder_2")
    found: dict[str, Optional[nn.Layer]] = {part: getattr(pipe, part, None) for part in parts}
    return {part: model for part, model in found.items() if model is not None}


def parse_weighted(text: str, flag: str = "--lora") -> Weighted:
    """PATH or PATH:WEIGHT. Raises ValueError, naming the flag, for a weight beyond LARGEST, NaN among them."""
    path, colon, weight = text.rpartition(":")
    try:
        number = float(weight)
    except ValueError:
        return text, 1.0
    if not colon:
        return text, 1.0
    if not -LARGEST <= number <= LARGEST:
        raise ValueError(f"{flag} {text}: the weight must be a number between -{LARGEST} and {LARGEST}")
    return path, number
