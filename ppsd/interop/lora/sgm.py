"""The UNet's layers as the original code names them (sgm, ldm), which kohya's and LyCORIS's files of SDXL keep.

There a block is a run of numbered layers: input_blocks_0 is conv_in, then each down block has `layers_per_block` of
resnet (0) and attention (1), and one more for the downsampler; output_blocks likewise, with one more resnet each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Optional

FIXED = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "out_2": "conv_out",
}
RESNET = {
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
FIXED_BACK = {name: sgm for sgm, name in FIXED.items()}
RESNET_BACK = {name: sgm for sgm, name in RESNET.items()}

NUMBERED = re.compile(r"(input|output)_blocks_(\d+)_([012])_(.+)")
MIDDLE = re.compile(r"middle_block_(\d+)_(.+)")
LAYER = re.compile(r"(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_(.+)")
MID_LAYER = re.compile(r"mid_block_(resnets|attentions)_(\d+)_(.+)")


def diffusers_name(name: str, layers_per_block: int = 2) -> Optional[str]:
    """input_blocks_4_1_proj_in -> down_blocks_1_attentions_0_proj_in; None if the original code has no such name."""
    if name in FIXED:
        return FIXED[name]
    middle = MIDDLE.fullmatch(name)
    if middle:
        at, rest = int(middle[1]), middle[2]
        inner = _inner(at % 2, at // 2, rest)
        return inner and f"mid_block_{inner}"
    numbered = NUMBERED.fullmatch(name)
    if not numbered:
        return None
    side, at, sub, rest = numbered[1], int(numbered[2]), int(numbered[3]), numbered[4]
    block, layer = divmod(at - 1 if side == "input" else at, layers_per_block + 1)
    inner = _down(layer, sub, rest, layers_per_block) if side == "input" else _up(layer, sub, rest, layers_per_block)
    return inner and f"{'down' if side == 'input' else 'up'}_blocks_{block}_{inner}"


def sgm_name(name: str, layers_per_block: int = 2) -> str:
    """The inverse of `diffusers_name`, for a UNet that has attention wherever it has an upsampler (SDXL has).

    Raises ValueError for a layer that a block of so many does not have.
    """
    if name in FIXED_BACK:
        return FIXED_BACK[name]
    middle = MID_LAYER.fullmatch(name)
    if middle:
        kind, at, rest = middle[1], int(middle[2]), middle[3]
        if kind == "resnets":
            return f"middle_block_{2 * at}_{RESNET_BACK[rest]}"
        return f"middle_block_{2 * at + 1}_{rest}"
    layer = LAYER.fullmatch(name)
    if layer is None:
        raise ValueError(f"{name} has no name in the original model's layout")
    made = _numbered(layer[1], int(layer[2]), layer[3], int(layer[4]), layer[5], layers_per_block)
    if diffusers_name(made, layers_per_block) != name:
        raise ValueError(f"{name} is not in a UNet of {layers_per_block} layers per block; say how many it has")
    return made


def layers_per_block_of(names: Iterable[str]) -> int:
    """The first number, from 2 on, with which all of the original names are layers; 2 if there is none."""
    blocks = [name for name in names if NUMBERED.fullmatch(name)]
    return next((n for n in (2, 1, 3, 4) if all(diffusers_name(name, n) for name in blocks)), 2)


def _numbered(side: str, block: int, kind: str, layer: int, rest: str, layers_per_block: int) -> str:
    start = block * (layers_per_block + 1) + (1 if side == "down" else 0)
    outer = "input_blocks" if side == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{outer}_{start + layers_per_block}_0_op"
    if kind == "upsamplers":
        return f"{outer}_{start + layers_per_block}_2_conv"
    return f"{outer}_{start + layer}_" + (f"0_{RESNET_BACK[rest]}" if kind == "resnets" else f"1_{rest}")


def _down(layer: int, sub: int, rest: str, layers_per_block: int) -> Optional[str]:
    if layer == layers_per_block:
        return "downsamplers_0_conv" if (sub, rest) == (0, "op") else None
    return _inner(sub, layer, rest)


def _up(layer: int, sub: int, rest: str, layers_per_block: int) -> Optional[str]:
    """Without attention, the upsampler is the second of its layer."""
    if rest == "conv" and sub:
        return "upsamplers_0_conv" if layer == layers_per_block else None
    return _inner(sub, layer, rest)


def _inner(sub: int, layer: int, rest: str) -> Optional[str]:
    if sub == 0:
        return f"resnets_{layer}_{RESNET[rest]}" if rest in RESNET else None
    return f"attentions_{layer}_{rest}" if sub == 1 else None
