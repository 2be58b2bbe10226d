"""Tiny random networks for tests: every part of a Stable Diffusion pipeline, a few thousand parameters each.

All of them fit together (latent_channels 4, cross_attention_dim 16, a x8 VAE) and are seeded: the same call gives the
same weights. Keyword arguments override the config.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ppsd import compat  # isort: skip  before paddle

import paddle
from ppdiffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from ppdiffusers.transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ppsd.models.controlnet import new_controlnet

compat.apply()

MAX_LENGTH = 77
WORDS = ("a", "the", "of", "on", "red", "blue", "green", "circle", "square", "photo", "background")

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
}
VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (4, 4, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "sample_size": 64,
}
TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "projection_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": MAX_LENGTH,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def tiny_unet(seed: int = 0, **overrides: Any) -> UNet2DConditionModel:
    """x_t [B,4,h,w] (h, w even), t [B], hidden [B,L,16] -> [B,4,h,w]; 8 x 8 latents by default."""
    paddle.seed(seed)
    return UNet2DConditionModel(**{**UNET_CONFIG, **overrides})


def tiny_controlnet(unet: UNet2DConditionModel, seed: int = 0) -> ControlNetModel:
    """Of a tiny UNet: its residuals for x_t [B,4,h,w] and a picture [B,3,8h,8w] are 0."""
    paddle.seed(seed)
    return new_controlnet(unet, embedding_channels=(4, 4, 8, 8))


def shaken(*layers: Any, seed: int = 2) -> Any:
    """Every parameter off its start, in place; the first of the layers. Zero convolutions then have something to say,
    and a lost or swapped weight shows."""
    random = np.random.default_rng(seed)
    for layer in layers:
        for parameter in layer.parameters():
            scale = 0.1 if parameter.ndim == 1 else 0.3 / np.sqrt(np.prod(parameter.shape[1:]))
            value = parameter.numpy() + scale * random.standard_normal(parameter.shape)
            parameter.set_value(value.astype(np.float32))
    return layers[0]


def tiny_vae(seed: int = 0, **overrides: Any) -> AutoencoderKL:
    """pixels [B,3,H,W] <-> latents [B,4,H/8,W/8]."""
    paddle.seed(seed)
    return AutoencoderKL(**{**VAE_CONFIG, **overrides})


def tiny_text_encoder(seed: int = 0, **overrides: Any) -> CLIPTextModel:
    """input_ids [B,L<=77] of `tiny_tokenizer` -> hidden [B,L,16]."""
    paddle.seed(seed)
    vocab = _vocab()
    ids = {"vocab_size": len(vocab), "bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1}
    return CLIPTextModel(CLIPTextConfig(**{**TEXT_CONFIG, **ids, **overrides}))


def tiny_tokenizer(**overrides: Any) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer: any text can be encoded; each of `WORDS` is one token. model_max_length 77."""
    vocab, merges = Path(_folder().name, "vocab.json"), Path(_folder().name, "merges.txt")
    vocab.write_text(json.dumps(_vocab(), ensure_ascii=False), encoding="utf-8")
    merges.write_text("\n".join(["#version: 0.2", *_merges(), ""]), encoding="utf-8")
    options = {"max_len": MAX_LENGTH, "model_max_length": MAX_LENGTH, **overrides}
    return CLIPTokenizer(str(vocab), str(merges), **options)


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """All of the above as one pipeline, without a safety checker."""
    return StableDiffusionPipeline(
        vae=tiny_vae(seed),
        text_encoder=tiny_text_encoder(seed),
        tokenizer=tiny_tokenizer(),
        unet=tiny_unet(seed),
        scheduler=DDIMScheduler(**SCHEDULER_CONFIG),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_pipeline_dir(path: Path, seed: int = 0) -> Path:
    """Write the whole pipeline in ppdiffusers layout to `path`/pipeline and return that folder."""
    folder = Path(path, "pipeline")
    tiny_pipeline(seed).save_pretrained(str(folder), safe_serialization=True)
    return folder


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Lives as long as the process: saving a tokenizer copies the files that it was made from."""
    return tempfile.TemporaryDirectory()


def _byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes used by CLIP's BPE, in vocabulary order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def _merges() -> list[str]:
    """BPE merges that build each of `WORDS` from the left; long words first, so that short ones do not cut them."""
    merges: dict[str, None] = {}
    for word in sorted(WORDS, key=len, reverse=True):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for i in range(1, len(parts)):
            merges["".join(parts[:i]) + " " + parts[i]] = None
    return list(merges)


def _vocab() -> dict[str, int]:
    letters = _byte_characters()
    merged = [merge.replace(" ", "") for merge in _merges()]
    tokens = [*letters, *(f"{c}</w>" for c in letters), *merged, "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}
