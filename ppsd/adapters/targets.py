"""Which layers of a UNet and a text encoder get an adapter, and of which rank."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from paddle import nn

from ppsd.adapters.layers import adaptable, weight_shape
from ppsd.adapters.places import Place

_ATTENTION, _TRANSFORMER = ("Attention",), ("Transformer2DModel",)
_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
_ENDS = r"conv_in|conv_out|time_embedding\.linear_[12]|add_embedding\.linear_[12]"
_CLIP = ("CLIPAttention", "CLIPMLP")


@dataclass(frozen=True)
class Preset:
    """Classes whose inner layers are taken, of the UNet and of text encoders; ends: the UNet's outer layers, too."""

    unet: tuple[str, ...]
    text_encoder: tuple[str, ...] = _CLIP
    ends: bool = False


PRESETS: Mapping[str, Preset] = {
    "attn-only": Preset(_ATTENTION, _CLIP[:1]),
    "attn-mlp": Preset(_TRANSFORMER),
    "unet-transformer-only": Preset(_TRANSFORMER, ()),
    "unet-convblock-only": Preset(_BLOCKS, ()),
    "locon": Preset(_TRANSFORMER + _BLOCKS),
    "full": Preset(_TRANSFORMER + _BLOCKS, ends=True),
}
"""attn-mlp is what kohya's networks.lora takes, and locon what it takes with conv_dim; the others are LyCORIS's."""


@dataclass(frozen=True)
class Target:
    """A layer, and the rank and alpha of its adapter."""

    place: Place
    layer: nn.Layer
    rank: int
    alpha: float


@dataclass(frozen=True)
class Wanted:
    """What the flags ask for. conv_dim, conv_alpha: of convolutions larger than 1 x 1; conv_dim 0: none of these.

    patterns: regular expressions; a layer is taken where one is found in its path, whatever the preset says.
    any_rank: ranks may be larger than a layer has room for, as LoKr's, which then has whole factors.
    """

    dim: int
    alpha: float
    conv_dim: int
    conv_alpha: float
    preset: str
    patterns: Sequence[str] = ()
    any_rank: bool = False


def find_targets(models: Mapping[str, nn.Layer], wanted: Wanted) -> list[Target]:
    """models: by part. Raises ValueError, naming the flag, for patterns that find nothing, and ranks that a layer does
    not have room for."""
    chosen = [
        (Place(part, path), layer)
        for part, model in models.items()
        for path, layer in _chosen(part, model, wanted)
        if wanted.conv_dim or not is_large(layer)
    ]
    for pattern in wanted.patterns:
        if not any(re.search(pattern, place.path) for place, _ in chosen):
            hint = "" if wanted.conv_dim else "; convolutions larger than 1 x 1 need --conv_dim"
            raise ValueError(f"--network_targets {pattern}: no layer of the trained parts has that in its path{hint}")
    if not chosen:
        raise ValueError(f"--network_preset {wanted.preset} has no layer in {', '.join(models)}")
    return [_target(place, layer, wanted) for place, layer in chosen]


def _chosen(part: str, model: nn.Layer, wanted: Wanted) -> Iterator[tuple[str, nn.Layer]]:
    if wanted.patterns:
        yield from (
            found for found in adaptable(model) if any(re.search(pattern, found[0]) for pattern in wanted.patterns)
        )
        return
    preset = PRESETS[wanted.preset]
    classes = preset.unet if part == "unet" else preset.text_encoder
    owners = [f"{path}." for path, layer in model.named_sublayers() if type(layer).__name__ in classes]
    for path, layer in adaptable(model):
        is_end = preset.ends and part == "unet" and re.fullmatch(_ENDS, path)
        if is_end or any(path.startswith(owner) for owner in owners):
            yield path, layer


def is_large(layer: nn.Layer) -> bool:
    """A convolution over more than one pixel."""
    return math.prod(weight_shape(layer)[2:]) > 1


def _target(place: Place, layer: nn.Layer, wanted: Wanted) -> Target:
    large = is_large(layer)
    rank, alpha = (wanted.conv_dim, wanted.conv_alpha) if large else (wanted.dim, wanted.alpha)
    room = largest_rank(weight_shape(layer))
    if rank <= room or wanted.any_rank:
        return Target(place, layer, rank, alpha)
    if place.part == "unet" and re.fullmatch(_ENDS, place.path):  # narrow in any model: pictures have few channels
        return Target(place, layer, room, alpha * room / rank)
    flag = "--conv_dim" if large else "--network_dim"
    raise ValueError(
        f"{flag} is {rank}, and {place.path} of the {place.part} is {' x '.join(map(str, weight_shape(layer)))}: rank"
        f" {room} already holds any change of it"
    )


def largest_rank(shape: Sequence[int]) -> int:
    """Above which a factorization of a weight of this shape has no more to say."""
    return min(shape[0], math.prod(shape[1:]))
