"""Which layer and which factor a key of a file means, whatever tool wrote it."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

from ppsd.adapters.base import ALPHA, DORA
from ppsd.adapters.lora import DOWN, UP
from ppsd.adapters.places import Place
from ppsd.interop.lora.checks import LEAVES
from ppsd.interop.lora.names import PREFIXES, known_place, place_of

DOTTED = (
    (re.compile(r"(.+?)(?:\.processor)?\.to_(q|k|v|out)_lora\.(down|up)\.weight"), ""),
    (re.compile(r"(.+)\.(?:lora|lora_linear_layer)\.down\.weight|(.+)\.lora_A(?:\.default)?\.weight"), DOWN),
    (re.compile(r"(.+)\.(?:lora|lora_linear_layer)\.up\.weight|(.+)\.lora_B(?:\.default)?\.weight"), UP),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"), DORA),
    (re.compile(r"(.+?)(?:\.lora|\.lora_linear_layer)?\.alpha"), ALPHA),
    (re.compile(rf"(.+)\.({'|'.join(re.escape(leaf) for leaf in sorted(LEAVES))})"), None),
)
"""diffusers' names: of attention processors (until 0.20), of its own layers, of PEFT; the last are kohya's leaves."""


class Meaning(NamedTuple):
    place: Place
    leaf: str


def is_underscored(key: str) -> bool:
    """Whether the layer's name is one of kohya's or LyCORIS's."""
    return key.startswith(tuple(PREFIXES))


def meaning(key: str, layers_per_block: int = 2) -> Optional[Meaning]:
    """None for a layer that Stable Diffusion does not have, and for no factor of LoRA, LoHa or LoKr."""
    if is_underscored(key):
        name, _, leaf = key.partition(".")
        place = place_of(name, layers_per_block)
        return Meaning(place, leaf) if place and leaf in LEAVES else None
    for pattern, leaf_or_none in DOTTED:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        if leaf_or_none == "":
            path, leaf = _of_processor(match[1], match[2]), DOWN if match[3] == "down" else UP
        elif leaf_or_none is None:
            path, leaf = match[1], match[2]
        else:
            path, leaf = next(found for found in match.groups() if found), leaf_or_none
        place = _place(path)
        if place:
            return Meaning(place, leaf)
    return None


def _of_processor(owner: str, projection: str) -> str:
    """owner: an attention of the UNet or of a text encoder."""
    if owner.endswith("self_attn"):
        return f"{owner}.{projection}_proj"
    return f"{owner}.to_{projection}" + (".0" if projection == "out" else "")


def _place(path: str) -> Optional[Place]:
    """Files of PEFT alone name no part, or begin with base_model.model."""
    path = path[len("base_model.model.") :] if path.startswith("base_model.model.") else path
    for part in ("unet", "text_encoder", "text_encoder_2"):
        if path.startswith(f"{part}."):
            return known_place(part, path[len(part) + 1 :])
    return known_place("", path)
