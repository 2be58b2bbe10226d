"""Layers' names in kohya's and LyCORIS's files, which have underscores for dots, and back without a model at hand."""

from __future__ import annotations

import re
from typing import Optional

from ppsd.adapters.places import Place
from ppsd.interop.lora.sgm import diffusers_name

UNET = re.compile(
    r"conv_in|conv_out|(?:time|add)_embedding\.(?:linear_[12]|cond_proj)|(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:"
    r"resnets\.\d+\.(?:conv1|conv2|conv_shortcut|time_emb_proj)|(?:down|up)samplers\.\d+\.conv|"
    r"attentions\.\d+\.(?:proj_in|proj_out|transformer_blocks\.\d+\.(?:"
    r"attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2))))"
)
TEXT = re.compile(r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])|text_projection")
"""The Linear and Conv layers of Stable Diffusion's networks, as diffusers, transformers and ppdiffusers name them."""

WORDS = sorted(
    (
        *("down_blocks", "up_blocks", "mid_block", "resnets", "attentions", "transformer_blocks"),
        *("downsamplers", "upsamplers", "conv", "conv1", "conv2", "conv_in", "conv_out", "conv_shortcut"),
        *("time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2", "cond_proj"),
        *("proj_in", "proj_out", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out", "ff", "net", "proj"),
        *("text_model", "encoder", "layers", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
        *("mlp", "fc1", "fc2", "text_projection"),
    ),
    key=len,
    reverse=True,
)
WORD = re.compile(rf"(?:{'|'.join(WORDS)}|\d+)(?=_|$)")
"""A part between two dots: the longest that fits, or a number."""

PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lycoris_": "",
}
"""lycoris_: what LyCORIS outside of kohya's trainer writes, for whichever network it was given."""


def dotted(name: str) -> Optional[str]:
    """down_blocks_0_attentions_1_proj_in -> down_blocks.0.attentions.1.proj_in; None for what is no such name."""
    words, at = [], 0
    while at < len(name):
        word = WORD.match(name, at)
        if word is None:
            return None
        words.append(word.group())
        at = word.end() + 1
    return ".".join(words)


def known_place(part: str, path: str) -> Optional[Place]:
    """None where Stable Diffusion has no such layer. An empty part: the one whose path it can be."""
    if not part:
        part = "text_encoder" if TEXT.fullmatch(path) else "unet"
    pattern = UNET if part == "unet" else TEXT
    return Place(part, path) if pattern.fullmatch(path) else None


def place_of(name: str, layers_per_block: int = 2) -> Optional[Place]:
    """The inverse of `kohya_name`, and of the names with the original model's blocks (SDXL); None if it is neither."""
    for prefix, part in PREFIXES.items():
        if name.startswith(prefix):
            rest = name[len(prefix) :]
            path = dotted(rest) or dotted(diffusers_name(rest, layers_per_block) or "")
            return known_place(part, path) if path else None
    return None
