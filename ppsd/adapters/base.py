"""What all adapters have in common: factors with the names and shapes of kohya's files, a scale, dropout, DoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Optional

import numpy as np
import paddle
from paddle import nn

from ppsd.adapters.layers import transform, weight_of

Factors = Mapping[str, np.ndarray]
"""Of one layer, by the last part of their names in kohya's and LyCORIS's files, in torch's layout; `alpha` is [].

lora_down.weight, lora_up.weight, lora_mid.weight, hada_w1_a ..., lokr_w1 ..., dora_scale, alpha.
"""
ALPHA, DORA = "alpha", "dora_scale"


@dataclass(frozen=True)
class Options:
    """How new factors are made. rank: the inner dimension; factor: LoKr's (-1: as square as possible)."""

    rank: int = 4
    tucker: bool = False
    dora: bool = False
    factor: int = -1
    decompose_both: bool = False


@dataclass(frozen=True)
class Dropout:
    """Probabilities, in training. features: of each value; rank: of whole ranks; module: of all that is added."""

    features: float = 0.0
    rank: float = 0.0
    module: float = 0.0


class Adapter(nn.Layer):
    """Beside one layer, whose weight has `shape` in torch's layout: [out,in] or [out,in,kh,kw].

    A subclass says what its factors are when training begins (`initial`), their rank, and their `product`, which is the
    change of the weight but for the scale alpha / rank. An alpha of 0, or none, stands for the rank (kohya).
    """

    algorithm: ClassVar[str]
    leaves: ClassVar[frozenset[str]]
    """Names that factors can have."""

    def __init__(self, factors: Factors, shape: Sequence[int], dropout: Dropout = Dropout()) -> None:
        super().__init__()
        self.shape, self.dropout = tuple(shape), dropout
        self._leaves = [name for name in factors if name != ALPHA]
        for name in self._leaves:
            owner, leaf = self, name
            if "." in name:
                head, leaf = name.split(".")
                owner = nn.Layer()
                self.add_sublayer(head, owner)
            owner.add_parameter(leaf, _parameter(owner, factors[name]))
        self.alpha = float(factors.get(ALPHA, 0.0)) or float(self.rank)

    @classmethod
    def initial(cls, shape: Sequence[int], options: Options, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Factors float32 whose product is 0."""
        raise NotImplementedError

    @property
    def rank(self) -> int:
        raise NotImplementedError

    def product(self) -> paddle.Tensor:
        """[out,in,...], or [out,in] of a 1 x 1 convolution."""
        raise NotImplementedError

    def shaped(self, product: paddle.Tensor) -> paddle.Tensor:
        """In the weight's shape. Raises ValueError where it is of another layer."""
        found, own = list(product.shape), list(self.shape)
        if found[:2] != own[:2] or math.prod(found) != math.prod(own):
            raise ValueError(f"factors are for a weight of {found}, and this layer's is {own}")
        return product.reshape(own)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def decomposes(self) -> bool:
        """Whether it is a DoRA (arXiv 2402.09353), which needs the layer's own weight."""
        return DORA in self._leaves

    def delta(self, weight: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        """The change of the weight [out,in,...]; weight: the layer's own, likewise."""
        with paddle.amp.auto_cast(enable=False):
            return self._change(self._scaled(), weight)

    def added(self, x: paddle.Tensor, layer: nn.Layer) -> paddle.Tensor:
        """What comes to the layer's output for x."""
        with paddle.amp.auto_cast(enable=False):
            change = self._change(self.without_rows(self._scaled(), 0), weight_of(layer) if self.decomposes else None)
        return self.dropped(transform(layer, x, change.astype(layer.weight.dtype)))

    def _scaled(self) -> paddle.Tensor:
        return self.shaped(self.product()) * self.scale

    def _change(self, product: paddle.Tensor, weight: Optional[paddle.Tensor]) -> paddle.Tensor:
        if not self.decomposes:
            return product
        assert weight is not None, "DoRA changes a weight by what it is"
        own = weight.astype(product.dtype)
        return decomposed(own + product, self.magnitude()) - own

    def magnitude(self) -> paddle.Tensor:
        """DoRA's lengths: [out,1,...] or [1,in,...]. Raises ValueError where they are of another layer."""
        for axis, size in enumerate(self.shape[:2]):
            if without_ones(self.dora_scale.shape) == without_ones([*[1] * axis, size]):
                return self.dora_scale.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
        found, own = list(self.dora_scale.shape), list(self.shape)
        raise ValueError(f"{DORA} has {found}, but a weight of {own} has {own[0]} outputs and {own[1]} inputs")

    def forward(self, x: paddle.Tensor, layer: nn.Layer) -> paddle.Tensor:
        """`added`, or in training, at random, nothing: times 0, so that every device has gradients to share."""
        out = self.added(x, layer)
        return (
            self.kept([1], self.dropout.module).astype(out.dtype) * out
            if self.training and self.dropout.module
            else out
        )

    def dropped(self, value: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.dropout(value, self.dropout.features, training=self.training)

    def without_rows(self, value: paddle.Tensor, axis: int) -> paddle.Tensor:
        """axis: of the layer's outputs. In training some of them get no change, the others more (after LyCORIS)."""
        probability = self.dropout.rank
        if not (self.training and probability):
            return value
        shape = [size if i == axis else 1 for i, size in enumerate(value.shape)]
        return value * (self.kept(shape, probability) / (1.0 - probability)).astype(value.dtype)

    def kept(self, shape: Sequence[int], probability: float) -> paddle.Tensor:
        """float32: 0 with that probability, else 1."""
        return (paddle.rand(shape) >= probability).astype("float32")

    def factors(self) -> dict[str, np.ndarray]:
        """As they are now, with alpha."""
        own = dict(self.named_parameters())
        values = {name: np.asarray(own[name].astype("float32").numpy()) for name in self._leaves}
        return {**values, ALPHA: np.asarray(self.alpha, np.float32)}


def decomposed(weight: paddle.Tensor, magnitude: paddle.Tensor) -> paddle.Tensor:
    """`weight` with lengths `magnitude`: of each output's row for [out,1,...], of each input's for [1,in,...].

    The length of `weight` itself gets no gradient (the paper's section 4.3, and PEFT).
    """
    by_output = magnitude.shape[0] == weight.shape[0]
    axes = [i for i in range(weight.ndim) if i != (0 if by_output else 1)]
    length = (weight.detach() ** 2).sum(axis=axes, keepdim=True).sqrt()
    return weight * (magnitude / (length + float(np.finfo(np.float32).eps)))


def without_ones(shape: Sequence[int]) -> list[int]:
    """A shape less the ones at its end: the same for a Linear as for a 1 x 1 convolution."""
    end = max((i + 1 for i, size in enumerate(shape) if size != 1), default=0)
    return list(shape[:end])


def core_by(core: paddle.Tensor, matrix: paddle.Tensor) -> paddle.Tensor:
    """A Tucker core [r,s,kh,kw] by its inner matrix [s,in]: [r,in*kh*kw]."""
    return paddle.einsum("rshw,si->rihw", core, matrix).flatten(1)


def uniform(shape: Sequence[int], fan_in: int, rng: np.random.Generator) -> np.ndarray:
    """torch's kaiming_uniform_(a=sqrt(5)): float32 within +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _parameter(owner: nn.Layer, value: np.ndarray) -> paddle.Tensor:
    value = np.asarray(value, np.float32)
    begin = nn.initializer.Assign(value)
    return owner.create_parameter(list(value.shape), dtype="float32", default_initializer=begin)
