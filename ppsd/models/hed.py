"""Soft edges by the HED network of ControlNet 1.1 (arXiv 1504.06375), from its published weights as safetensors.

https://github.com/lllyasviel/ControlNet-v1-1-nightly, annotator/hed: 5 blocks of 3 x 3 convolutions, each with the half
of the sides of the one before and a map of edges of its own; the edges are the mean of the five.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddle import nn
from paddle.nn import functional
from safetensors.numpy import load_file

compat.apply()

FILE = "ControlNetHED.safetensors"
LAYERS = (2, 2, 3, 3, 3)
WIDTHS = (64, 128, 256, 512, 512)


class Block(nn.Layer):
    """`layers` convolutions, and the map of what is an edge for them."""

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        channels = [inputs, *[width] * layers]
        pairs = zip(channels, channels[1:])
        self.convs = nn.Sequential(*(nn.Conv2D(before, after, 3, padding=1) for before, after in pairs))
        self.projection = nn.Conv2D(width, 1, 1)

    def forward(self, hidden: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        for conv in self.convs:
            hidden = functional.relu(conv(hidden))
        return hidden, self.projection(hidden)


class Hed(nn.Layer):
    """RGB float32 [B,3,H,W] in 0..255 -> how much each pixel is on an edge: float32 [B,1,H,W] in 0..1."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.norm = self.create_parameter([1, 3, 1, 1])
        for number, (inputs, width, layers) in enumerate(zip((3, *widths), widths, LAYERS), start=1):
            self.add_sublayer(f"block{number}", Block(inputs, width, layers))

    def forward(self, pixels: paddle.Tensor) -> paddle.Tensor:
        size, hidden, maps = pixels.shape[2:], pixels - self.norm, []
        for number in range(1, len(LAYERS) + 1):
            if number > 1:
                hidden = functional.max_pool2d(hidden, 2, 2)
            hidden, edges = getattr(self, f"block{number}")(hidden)
            maps.append(functional.interpolate(edges, size, mode="bilinear", align_corners=False))
        return functional.sigmoid(paddle.add_n(maps) / len(maps))


def load_hed(path: str, flag: str) -> Hed:
    """From a safetensors file, a folder with one, or a hub name. Raises ValueError naming the flag if it cannot be."""
    file = _file(path, flag)
    try:
        weights = load_file(str(file))
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError(f"{flag}: {file}: not a whole safetensors file: {error}") from error
    first = [f"block{number}.convs.0.weight" for number in range(1, len(LAYERS) + 1)]
    widths = tuple(len(weights[key]) for key in first if key in weights)
    model = Hed(widths if len(widths) == len(LAYERS) else WIDTHS)
    wanted = {key: list(value.shape) for key, value in model.state_dict().items()}
    found = {key: list(value.shape) for key, value in weights.items()}
    wrong = sorted(key for key in wanted if found.get(key) != wanted[key])
    if wrong:
        raise ValueError(f"{flag}: {file} is no HED network of ControlNet 1.1: it lacks {', '.join(wrong[:3])}")
    model.set_state_dict({key: np.ascontiguousarray(weights[key], np.float32) for key in wanted})
    model.eval()
    return model


def _file(path: str, flag: str) -> Path:
    place = Path(path)
    if place.is_file() and place.suffix != ".safetensors":
        raise ValueError(
            f"{flag}: {path} is not read, because a pickle can run anything. Where torch is, make it safetensors:"
            f' safetensors.torch.save_file(torch.load("{place.name}", weights_only=True), "{FILE}")'
        )
    if place.is_file():
        return place
    if place.is_dir():
        files = sorted(place.glob("*.safetensors"))
        if len(files) != 1:
            raise ValueError(f"{flag}: {path} has {len(files)} .safetensors files; name the file ({FILE})")
        return files[0]
    return _from_hub(path, flag)


def _from_hub(name: str, flag: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, FILE))
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ValueError(f"{flag}: there is no file {name}, and on the hub no {FILE} of it: {reason[0]}") from error
