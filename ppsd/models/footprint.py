"""What the models of a pipeline take in memory, counted from their configs: nothing is loaded or allocated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from ppdiffusers import AutoencoderKL, UNet2DConditionModel

from ppsd.models.footprint_unet import Kept, kept_by_unet

Shapes = list[tuple[int, ...]]

_CONFIGS = Path(__file__).parents[2] / "configs" / "unet"
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
}
_TEXT: dict[int, dict[str, Any]] = {
    768: {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    1024: {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}
NAMED = {"sd15": _CONFIGS / "sd15.json", "sd21": _CONFIGS / "sd21.json"}


@dataclass(frozen=True)
class TextSize:
    """Of a CLIP text encoder."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int = 49408
    max_position_embeddings: int = 77

    def shapes(self) -> Shapes:
        """Of its weights, as paddlenlp's CLIPTextModel has them."""
        d, wide = self.hidden_size, self.intermediate_size
        attention = [(d, d), (d,)] * 4
        layer = [*attention, (d,), (d,), (d, wide), (wide,), (wide, d), (d,), (d,), (d,)]
        return [(self.vocab_size, d), (self.max_position_embeddings, d), *layer * self.num_hidden_layers, (d,), (d,)]

    def kept(self, tokens: int) -> int:
        """Numbers a caption that the backward pass needs of its forward pass.

        A layer keeps what its two norms take and give, q, k, v, what attention's and the MLP's last layers take and the
        gate x sigmoid(1.702 x) in between: 9 times [L,D] and 3 times [L,4D]; and the attention's softmax.
        """
        layer = tokens * (9 * self.hidden_size + 3 * self.intermediate_size) + self.num_attention_heads * tokens**2
        return layer * self.num_hidden_layers


@dataclass(frozen=True)
class Footprint:
    """A pipeline. unet, vae: layers whose weights have shapes and no memory."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: TextSize

    @property
    def latent_factor(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def kept(self, resolution: int, tokens: int = 77) -> list[Kept]:
        """By the UNet's layers, for one sample."""
        side = resolution // self.latent_factor
        return kept_by_unet(self.unet, side, side, tokens)

    def encoding(self, resolution: int, side: int = 0) -> int:
        """Numbers that the VAE's encoder has at a time for one picture, at its first blocks: what a block takes, the
        normed, and what its convolution gives. side: of a tile, 0 without."""
        n = min(resolution, side or resolution) ** 2
        return 3 * n * int(self.vae.config.block_out_channels[0])


def shapes_of(layer: nn.Layer) -> Shapes:
    return [tuple(parameter.shape) for parameter in layer.parameters()]


def numbers(shapes: Sequence[Sequence[int]]) -> int:
    total = 0
    for shape in shapes:
        count = 1
        for size in shape:
            count *= int(size)
        total += count
    return total


def read_footprint(model: str) -> Footprint:
    """model: a key of NAMED, the .json config of a UNet, or a pipeline folder. Raises ValueError, naming --model."""
    path = NAMED.get(model, Path(model))
    if path.is_file():
        unet = _read(path)
        width = int(unet.get("cross_attention_dim", 1280))
        return _footprint(unet, _VAE, _TEXT.get(width, _TEXT[768]))
    if not path.is_dir():
        raise ValueError(f"--model {model}: neither {', '.join(NAMED)} nor a pipeline folder nor the .json of a UNet")
    return _footprint(*(_read(path / part / "config.json") for part in ("unet", "vae", "text_encoder")))


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"--model: cannot read {file}: {error}") from error


def _footprint(unet: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any]) -> Footprint:
    text = text.get("text_config", text)
    known = {name: text[name] for name in TextSize.__dataclass_fields__ if name in text}
    with paddle.LazyGuard():
        return Footprint(UNet2DConditionModel(**_settings(unet)), AutoencoderKL(**_settings(vae)), TextSize(**known))


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
