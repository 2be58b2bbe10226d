"""LoRA (arXiv 2106.09685) and, for convolutions, LoCon: the change of a weight is a product of two thin matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from ppsd.adapters.base import Adapter, Options, uniform
from ppsd.adapters.layers import is_linear, mix, transform

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"


class LoRA(Adapter):
    """up [out,r] or [out,r,1,1]; down [r,in] or [r,in,kh,kw]. With mid [r,r,kh,kw] (Tucker), down is [r,in,1,1]."""

    algorithm = "lora"
    leaves = frozenset({DOWN, UP, MID})

    @classmethod
    def initial(cls, shape: Sequence[int], options: Options, rng: np.random.Generator) -> dict[str, np.ndarray]:
        out, within, *kernel = shape
        rank, ones = options.rank, [1] * len(kernel)
        tucker = options.tucker and math.prod(kernel) > 1
        down = [rank, within, *(ones if tucker else kernel)]
        factors = {DOWN: uniform(down, math.prod(down[1:]), rng), UP: np.zeros([out, rank, *ones], np.float32)}
        if tucker:
            factors[MID] = uniform([rank, rank, *kernel], rank * math.prod(kernel), rng)
        return factors

    @property
    def rank(self) -> int:
        return int(self.lora_down.weight.shape[0])

    def product(self) -> paddle.Tensor:
        up, down = self.lora_up.weight, self.lora_down.weight
        if MID in self._leaves:
            return paddle.einsum("op,pqhw,qi->oihw", up.flatten(1), self.lora_mid.weight, down.flatten(1))
        return paddle.matmul(up.flatten(1), down.flatten(1)).reshape([up.shape[0], *down.shape[1:]])

    def added(self, x: paddle.Tensor, layer: nn.Layer) -> paddle.Tensor:
        if self.decomposes:
            return super().added(x, layer)
        if MID in self._leaves:
            low = transform(layer, mix(layer, x, self.lora_down.weight), self.lora_mid.weight)
        else:
            down = self.lora_down.weight
            low = transform(layer, x, down.reshape([down.shape[0], *self.shape[1:]]))
        return mix(layer, self._without_ranks(self.dropped(low), layer), self.lora_up.weight) * self.scale

    def _without_ranks(self, low: paddle.Tensor, layer: nn.Layer) -> paddle.Tensor:
        """low [B,...,r] or [B,r,h,w]: each sample loses its own ranks, the others are scaled up (kohya)."""
        probability = self.dropout.rank
        if not (self.training and probability):
            return low
        axis = low.ndim - 1 if is_linear(layer) or layer._data_format == "NHWC" else 1
        shape = [low.shape[0], *(self.rank if i == axis else 1 for i in range(1, low.ndim))]
        return low * (self.kept(shape, probability) / (1.0 - probability)).astype(low.dtype)
