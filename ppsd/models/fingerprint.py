"""Which network made some numbers: hashes of weights and settings, the same on every machine and in every file layout.

Taken of the components in memory, in float32; so a folder in Paddle's layout and one in torch's give the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from paddle import nn

from ppsd.models.saving import as_float32

_VAE_KEYS = (
    "in_channels",
    "latent_channels",
    "down_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "norm_num_groups",
)
_TEXT_KEYS = ("num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
_PROBES = ("", "A photo of a cat, wearing a hat.", "größe 4 %", "一个红色的圆", "  two  spaces <|endoftext|> it's")


def vae_fingerprint(vae: nn.Layer) -> str:
    """Of what latents depend on: the encoder. VAEs that differ in their decoders alone have the same."""
    parts = ("encoder.", "quant_conv.")
    weights = {name: value for name, value in vae.state_dict().items() if name.startswith(parts)}
    return _digest({key: vae.config[key] for key in _VAE_KEYS}, weights)


def text_encoder_fingerprint(text_encoder: nn.Layer) -> str:
    """Of what the last hidden states depend on."""
    weights = {name: value for name, value in text_encoder.state_dict().items() if not name.endswith("position_ids")}
    return _digest({key: getattr(text_encoder.config, key, None) for key in _TEXT_KEYS}, weights)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Of its words, their numbers and merges, and of how it splits a few texts."""
    facts = {
        "vocab": sorted(tokenizer.get_vocab().items()),
        "merges": sorted((rank, list(pair)) for pair, rank in getattr(tokenizer, "bpe_ranks", {}).items()),
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id],
        "probes": [list(tokenizer(text)["input_ids"]) for text in _PROBES],
    }
    return _digest(facts, {})


def _digest(settings: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """16 hexadecimal digits."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    for name in sorted(weights):
        value = as_float32(weights[name]) if hasattr(weights[name], "place") else np.asarray(weights[name])
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
