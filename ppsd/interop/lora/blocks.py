"""Blocks of a UNet and of text encoders, by which what a LoRA changes is told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ppsd.adapters.places import PREFIXES, Place

_NUMBERED = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)")
_ENDS = ("conv_in", "time_embedding", "add_embedding")


class Block(NamedTuple):
    """In the order of a pass through the network. label: its name among kohya's block weights, if it has one."""

    order: tuple[int, int, int, int]
    name: str
    label: str


def block_of(place: Place, layers_per_block: int = 2) -> Block:
    """Resnets and attentions of one number are one block, as in the original code."""
    part = -list(PREFIXES).index(place.part)  # text encoders come first
    if part:
        layer = _LAYER.match(place.path)
        number = int(layer[1]) if layer else 1000
        return Block((part, number, 0, 0), f"{place.part}.{f'layers.{number}' if layer else place.path}", "")
    numbered = _NUMBERED.match(place.path)
    if numbered:
        return _numbered(numbered, layers_per_block)
    head = place.path.split(".")[0]
    if head == "mid_block":
        return Block((0, 2, 0, 0), head, "MID")
    label = {"conv_in": "IN00", "conv_out": "OUT"}.get(head, "")
    return Block((0, 0, _ENDS.index(head), 0) if head in _ENDS else (0, 4, 0, 0), head, label)


def layers_per_block_of(places: Iterable[Place]) -> int:
    """The least number that a UNet with these layers can have; at least 2 where it does not show."""
    found = [match for place in places if place.part == "unet" and (match := _NUMBERED.match(place.path))]
    most = [int(m[4]) + (m[1] == "down") for m in found if m[3] in ("resnets", "attentions")]
    up = [int(m[4]) for m in found if m[1] == "up" and m[3] == "resnets"]
    return max(most) if up or (most and max(most) > 2) else 2


def _numbered(match: re.Match[str], layers_per_block: int) -> Block:
    side, block, kind, layer = match[1], int(match[2]), match[3], int(match[4])
    first = block * (layers_per_block + 1)
    if side == "down":
        last = kind == "downsamplers"
        number = first + (layers_per_block if last else layer) + 1
        name = f"down_blocks.{block}.{'downsamplers' if last else layer}"
        return Block((0, 1, block, layers_per_block if last else layer), name, f"IN{number:02d}")
    last = kind == "upsamplers"  # within the last layer, in the original code
    at = layers_per_block if last else layer
    return Block((0, 3, block, at), f"up_blocks.{block}.{at}", f"OUT{first + at:02d}")
