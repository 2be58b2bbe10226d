"""The annotators that are networks: depth, normals, soft edges, and what is where."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable

import numpy as np

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddle.nn import functional

from ppsd.models.ade20k import PALETTE
from ppsd.models.dpt import Dpt
from ppsd.models.hed import Hed, load_hed

compat.apply()

FLAG = "--annotator_model"
BACKGROUND = 0.1  # of the range of depths, from the far end: there the normal faces the camera

Annotate = Callable[[np.ndarray, int], np.ndarray]


def load_annotator(name: str, path: str) -> Annotate:
    """RGB uint8 [3,H,W] and a seed, which nothing depends on -> uint8 [3,H,W], of "depth" float32 [1,H,W] in 0..1.

    path: a folder or a hub name; of "depth" and "normal" a DPT network for depth, or a depth pipeline; of "seg" a DPT
    network for ADE20K; of "hed" ControlNet's. Raises ValueError naming the flag if it cannot be loaded whole.
    """
    return _LOADERS[name](path)


def _load_depth(path: str) -> Annotate:
    return partial(_depth, _dpt("DPTForDepthEstimation", path))


def _load_normal(path: str) -> Annotate:
    return partial(_normal, _dpt("DPTForDepthEstimation", path))


def _load_seg(path: str) -> Annotate:
    network = _dpt("DPTForSemanticSegmentation", path)
    if network.config.num_labels > len(PALETTE):
        raise ValueError(f"{FLAG}: {path} tells {network.config.num_labels} kinds apart; ADE20K has {len(PALETTE)}")
    return partial(_seg, network)


def _load_hed(path: str) -> Annotate:
    return partial(_hed, load_hed(path, FLAG))


_LOADERS: dict[str, Callable[[str], Annotate]] = {
    "depth": _load_depth,
    "normal": _load_normal,
    "hed": _load_hed,
    "seg": _load_seg,
}


def _dpt(cls: str, path: str) -> Dpt:
    import paddlenlp.transformers as transformers

    return Dpt(getattr(transformers, cls), path, FLAG)


def _inverse_depth(network: Any, pixels: np.ndarray) -> np.ndarray:
    """float32 [H,W] in the network's own units: larger is nearer."""
    found = network(pixels, "predicted_depth").astype("float32")
    resized = functional.interpolate(found.unsqueeze(1), pixels.shape[1:], mode="bicubic", align_corners=False)
    return resized[0, 0].numpy()


def _shares(depth: np.ndarray) -> np.ndarray:
    """In 0..1, both of them taken; 0 where there is one depth only."""
    spread = depth.max() - depth.min()
    return (depth - depth.min()) / spread if spread > 0 else np.zeros_like(depth)


def _depth(network: Any, pixels: np.ndarray, seed: int) -> np.ndarray:
    depth = _inverse_depth(network, pixels)
    return _shares(depth)[None].astype(np.float32)


def _normal(network: Any, pixels: np.ndarray, seed: int) -> np.ndarray:
    """Directions of surfaces, red: x, green: y, blue: towards the camera; slopes of the depth, as ControlNet 1.0 has.

    Of the slopes by Sobel's operator, with 2 pi for the third, all in the units of MiDaS.
    """
    depth = _inverse_depth(network, pixels)
    far = _shares(depth) < BACKGROUND
    slopes = [np.where(far, 0, slope) for slope in _sobel(depth)]
    normal = np.stack([*slopes, np.full_like(depth, math.tau)])
    normal /= np.sqrt(np.square(normal).sum(axis=0))
    return np.clip(normal * 127.5 + 127.5, 0, 255).astype(np.uint8)


def _sobel(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of [H,W] in x and y; at an edge the values beyond it mirror those within."""
    padded = np.pad(values, 1, mode="reflect" if min(values.shape) > 1 else "edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    return across[:-2] + 2 * across[1:-1] + across[2:], down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]


def _seg(network: Any, pixels: np.ndarray, seed: int) -> np.ndarray:
    """The colour of the kind of thing that each pixel most likely belongs to."""
    logits = network(pixels, "logits").astype("float32")
    resized = functional.interpolate(logits, pixels.shape[1:], mode="bilinear", align_corners=False)
    kinds = resized[0].argmax(axis=0).numpy()
    return np.ascontiguousarray(PALETTE[kinds].transpose(2, 0, 1))


@paddle.no_grad()
def _hed(network: Hed, pixels: np.ndarray, seed: int) -> np.ndarray:
    """White where the picture has an edge, softly."""
    edges = network(paddle.to_tensor(np.ascontiguousarray(pixels)[None]).astype("float32"))[0, 0].numpy()
    return np.repeat(np.clip(edges * 255, 0, 255).astype(np.uint8)[None], 3, axis=0)
