"""Tiny pipelines, and LoRA files of random factors that fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.interop.lora import LoraFile, write_lora
from ppsd.interop.lora.model_weights import open_parts, shape_at
from tests.lora_files.deltas import Factors, random_factors

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
PLACES = (
    Place("unet", f"{ATTENTION}.attn1.to_q"),
    Place("unet", f"{ATTENTION}.ff.net.0.proj"),
    Place("unet", "down_blocks.0.attentions.0.proj_in"),
    Place("unet", "down_blocks.1.resnets.0.conv1"),
    Place("unet", "down_blocks.1.resnets.0.conv_shortcut"),
    Place("text_encoder", "text_model.encoder.layers.1.self_attn.q_proj"),
    Place("text_encoder", "text_model.encoder.layers.0.mlp.fc1"),
)
"""Every kind of layer: square and not, 1 x 1, 3 x 3, of both networks."""


def random_layers(
    folder: Path,
    kind: str = "lora",
    places: Sequence[Place] = PLACES,
    seed: int = 0,
    size: float = 0.05,
    **options: Any,
) -> dict[Place, Factors]:
    """Factors for layers of a pipeline, of changes about `size`."""
    parts, made = open_parts(folder), {}
    for number, place in enumerate(places):
        shape = shape_at(parts, place)
        assert shape is not None, place
        own = "lora" if kind == "tucker" and len(shape) == 2 else kind
        factors = random_factors(own, shape, seed=seed * 100 + number, **options)
        count = len([name for name in factors if name != "alpha"])
        made[place] = {
            name: value if name == "alpha" else (value * size ** (1 / count)).astype(np.float32)
            for name, value in factors.items()
        }
    return made


def save(file: Path, layers: Mapping[Place, Factors], metadata: Optional[dict[str, str]] = None) -> Path:
    write_lora(file, LoraFile({place: dict(factors) for place, factors in layers.items()}, metadata or {}))
    return file


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Of all safetensors of a pipeline, as they are stored."""
    found = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        source = SafetensorsFile(file)
        found.update({f"{file.relative_to(folder)}:{name}": source.read(name) for name in source.specs})
    return found


def same_bits(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and value.tobytes() == other[name].tobytes() for name, value in one.items()
    )
