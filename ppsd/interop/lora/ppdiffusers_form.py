"""paddle_lora_weights.safetensors, as ppdiffusers saves it and its load_lora_weights reads it: Linear weights [in,out].

ppdiffusers 0.29 reads no alpha, takes a convolution's rank from the wrong axis, and wants LoRA on all four projections
of a text encoder's attention, of one rank, in every layer (and on both of the MLP if on any).
"""

from __future__ import annotations

import re

import numpy as np

from ppsd.adapters.base import DORA
from ppsd.adapters.lora import DOWN, UP
from ppsd.adapters.places import Place
from ppsd.interop.lora.diffusers_form import Entries, filled, folded, key_of, plain
from ppsd.interop.lora.lora_file import Layers

IN_LAYER = re.compile(r"(text_model\.encoder\.layers\.)(\d+)\.(self_attn|mlp)\.(\w+)")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def ppdiffusers_entries(layers: Layers) -> Entries:
    """alpha / rank is in `up`. Raises ValueError for what ppdiffusers would load wrongly, or not at all."""
    made = {place: folded(factors) for place, factors in plain(layers, "ppdiffusers").items()}
    _refuse(made)
    for part in ("text_encoder", "text_encoder_2"):
        made.update(_whole_encoder({place: factors for place, factors in made.items() if place.part == part}))
    return {
        key_of(place, leaf): (np.ascontiguousarray(factors[leaf].T), place, leaf)
        for place, factors in made.items()
        for leaf in (DOWN, UP)
    }


def _refuse(layers: Layers) -> None:
    wrong = {
        "convolutions": [place.path for place, factors in layers.items() if factors[DOWN].ndim != 2],
        "DoRA": [place.path for place, factors in layers.items() if DORA in factors],
        "a projection of a text encoder": [place.path for place in layers if place.path == "text_projection"],
    }
    for what, paths in wrong.items():
        if paths:
            raise ValueError(
                f"ppdiffusers loads {what} from its own form wrongly or not at all ({len(paths)} layers: {paths[0]},"
                " ...): write the form diffusers, of which it reads more (from_diffusers=True), or merge the LoRA"
            )


def _whole_encoder(layers: Layers) -> dict[Place, dict[str, np.ndarray]]:
    """With zeros for missing layers, and up to the largest rank among the projections of one attention."""
    if not layers:
        return {}
    found = {place: IN_LAYER.fullmatch(place.path) for place in layers}
    kinds = {match[3] for match in found.values() if match}
    last = max(int(match[2]) for match in found.values() if match)
    part, made = next(iter(layers)).part, {}
    for n in range(last + 1):
        stem = f"text_model.encoder.layers.{n}"
        attention = [Place(part, f"{stem}.self_attn.{name}") for name in PROJECTIONS]
        made.update(_attention(layers, attention))
        if "mlp" in kinds:
            for name in ("fc1", "fc2"):
                place = Place(part, f"{stem}.mlp.{name}")
                made[place] = dict(layers[place]) if place in layers else _zeros(_like(layers, f"mlp.{name}"), 1)
    return made


def _attention(layers: Layers, places: list[Place]) -> dict[Place, dict[str, np.ndarray]]:
    rank = max((layers[place][DOWN].shape[0] for place in places if place in layers), default=1)
    width = _width(layers)
    return {
        place: filled(dict(layers[place]), rank) if place in layers else _zeros((width, width), rank)
        for place in places
    }


def _width(layers: Layers) -> int:
    """Of the encoder's states: of any projection, of fc1's input, or of fc2's output."""
    for place, factors in layers.items():
        if not place.path.endswith("fc1"):
            return int(factors[UP].shape[0])
        return int(factors[DOWN].shape[1])
    raise AssertionError("no layers")


def _like(layers: Layers, ending: str) -> tuple[int, int]:
    """out, in of fc1 or fc2."""
    for place, factors in layers.items():
        if place.path.endswith(ending):
            return int(factors[UP].shape[0]), int(factors[DOWN].shape[1])
    other = next(place for place in layers if ".mlp." in place.path)
    return int(layers[other][DOWN].shape[1]), int(layers[other][UP].shape[0])


def _zeros(shape: tuple[int, int], rank: int) -> dict[str, np.ndarray]:
    out, within = shape
    return {DOWN: np.zeros([rank, within], np.float32), UP: np.zeros([out, rank], np.float32)}
