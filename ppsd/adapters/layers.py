"""The layers that adapters stand beside, seen as torch does: weights [out,in] or [out,in,kh,kw]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional

from ppsd.models.placeholder import ExtendedEmbedding


def adaptable(model: nn.Layer) -> Iterator[tuple[str, nn.Layer]]:
    """Path and layer of every linear layer and convolution of a network, in its own order."""
    for path, layer in model.named_sublayers():
        weight = getattr(layer, "weight", None)
        kind = weight is not None and weight.ndim in (2, 4) and not isinstance(layer, (nn.Embedding, ExtendedEmbedding))
        if kind and getattr(layer, "_groups", 1) == 1:
            yield path, layer


def is_linear(layer: nn.Layer) -> bool:
    return layer.weight.ndim == 2


def weight_shape(layer: nn.Layer) -> tuple[int, ...]:
    """Of the weight as torch has it. Paddle's Linear layers have [in,out]."""
    shape = tuple(layer.weight.shape)
    return shape[::-1] if is_linear(layer) else shape


def weight_of(layer: nn.Layer) -> paddle.Tensor:
    """The weight as torch has it."""
    return layer.weight.T if is_linear(layer) else layer.weight


def as_weight(layer: nn.Layer, value: paddle.Tensor) -> paddle.Tensor:
    """torch's [out,in,...] as the layer's own weight has it."""
    return value.T if is_linear(layer) else value


def transform(layer: Any, x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """What the layer would give for x with this weight (torch's layout) and no bias."""
    if is_linear(layer):
        return paddle.matmul(x, weight, transpose_y=True)
    return functional.conv2d(
        x, weight, None, layer._stride, layer._padding, layer._dilation, data_format=layer._data_format
    )


def mix(layer: Any, x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Each position's features by a matrix: x [...,in] or [B,in,h,w]; weight [out,in] or [out,in,1,1]."""
    if is_linear(layer):
        return paddle.matmul(x, weight.flatten(1), transpose_y=True)
    kernel = weight.reshape([*weight.shape[:2], 1, 1])
    return functional.conv2d(x, kernel, data_format=layer._data_format)
