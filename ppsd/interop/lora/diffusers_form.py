"""pytorch_lora_weights.safetensors, as diffusers' training scripts save it and all its versions read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ppsd.adapters.base import ALPHA, DORA
from ppsd.adapters.lora import DOWN, UP
from ppsd.adapters.places import Place
from ppsd.interop.lora.checks import algorithm
from ppsd.interop.lora.equivalents import scale_of, without_core
from ppsd.interop.lora.lora_file import Layers
from ppsd.interop.lora.peft_config import make_config

Entries = dict[str, tuple[np.ndarray, Place, str]]
"""By key: the value, and the factor of which layer it is."""


def diffusers_entries(layers: Layers, keep_alpha: bool, one_rank: bool) -> tuple[Entries, str]:
    """With the text of `lora_adapter_metadata`. Raises ValueError for what this form cannot say.

    keep_alpha: factors as they are, with alpha in the metadata, which diffusers reads from 0.35 on. Otherwise
    alpha / rank is in `up`, so that alpha is the rank, which every version takes for granted. one_rank: the factors
    of a part are then filled up with zeros to its largest rank: diffusers before 0.35 has one alpha for all ranks.
    """
    layers = plain(layers, "diffusers")
    if not keep_alpha:
        layers = {place: folded(factors) for place, factors in layers.items()}
    if one_rank and not keep_alpha:
        layers = of_one_rank(layers)
    ranks = {place: factors[DOWN].shape[0] for place, factors in layers.items()}
    alphas = {place: scale_of(factors) * ranks[place] for place, factors in layers.items()}
    entries = {
        key_of(place, leaf): (_magnitude(value) if leaf == DORA else value, place, leaf)
        for place, factors in layers.items()
        for leaf, value in factors.items()
        if leaf != ALPHA
    }
    return entries, make_config(ranks, alphas, _decomposed_parts(layers))


def plain(layers: Layers, form: str) -> dict[Place, dict[str, np.ndarray]]:
    """Cores merged. Raises ValueError for LoHa and LoKr."""
    other = [place for place, factors in layers.items() if algorithm(factors) != "lora"]
    if other:
        kinds = ", ".join(sorted({algorithm(layers[place]) for place in other}))
        raise ValueError(
            f"{len(other)} layers are {kinds} ({', '.join(place.path for place in other[:3])}, ...), and the form"
            f" {form} holds LoRA and LoCon only: write kohya's form, which LyCORIS, A1111 and ComfyUI read, or turn"
            " them into LoRA first (as_lora, with each layer's shape)"
        )
    return {place: without_core(factors) for place, factors in layers.items()}


def folded(factors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """alpha / rank multiplied into `up`: exact for powers of two. alpha is then the rank."""
    up = (factors[UP] * np.float32(scale_of(factors))).astype(np.float32)
    return {**factors, UP: up, ALPHA: np.asarray(factors[DOWN].shape[0], np.float32)}


def of_one_rank(layers: Layers) -> dict[Place, dict[str, np.ndarray]]:
    """Each part's folded factors filled up with zeros to its largest rank."""
    largest = {part: max(_rank(layers[place]) for place in layers if place.part == part) for part in _parts(layers)}
    return {place: filled(dict(factors), largest[place.part]) for place, factors in layers.items()}


def filled(factors: dict[str, np.ndarray], rank: int) -> dict[str, np.ndarray]:
    more = rank - factors[DOWN].shape[0]
    down = np.pad(factors[DOWN], [(0, more)] + [(0, 0)] * (factors[DOWN].ndim - 1))
    up = np.pad(factors[UP], [(0, 0), (0, more)] + [(0, 0)] * (factors[UP].ndim - 2))
    return {**factors, DOWN: down, UP: up, ALPHA: np.asarray(rank, np.float32)}


def key_of(place: Place, leaf: str) -> str:
    """Names of before PEFT, the UNet's and the text encoders': all versions of diffusers read them, and ppdiffusers."""
    if leaf == DORA:
        return f"{place.part}.{place.path}.lora_magnitude_vector"
    layer = "lora" if place.part == "unet" else "lora_linear_layer"
    return f"{place.part}.{place.path}.{layer}.{'down' if leaf == DOWN else 'up'}.weight"


def _magnitude(value: np.ndarray) -> np.ndarray:
    """[out,1] -> [out], [out,1,1,1] -> [1,out,1,1]"""
    if value.shape[0] == 1 and value.size > 1:
        raise ValueError(
            "dora_scale [1,in,...] keeps the length of each input's weights (LyCORIS with wd_on_out=False); PEFT and"
            " diffusers know only that of each output's: write kohya's form"
        )
    return value.reshape(-1) if value.ndim == 2 else value.reshape(1, -1, *value.shape[2:])


def _decomposed_parts(layers: Layers) -> list[str]:
    parts = [part for part in _parts(layers) if any(DORA in layers[place] for place in layers if place.part == part)]
    without = [place for place in layers if place.part in parts and DORA not in layers[place]]
    if without:
        raise ValueError(
            f"{without[0].part}: some layers are DoRA and {len(without)} are not ({without[0].path}, ...), which PEFT"
            " and diffusers cannot hold in one part: write kohya's form"
        )
    return parts


def _parts(layers: Iterable[Place]) -> list[str]:
    return sorted({place.part for place in layers})


def _rank(factors: Mapping[str, np.ndarray]) -> int:
    return int(factors[DOWN].shape[0])
