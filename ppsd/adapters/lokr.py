"""LoKr (arXiv 2309.14859, LyCORIS): the change of a weight is the Kronecker product of a small and a larger matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from ppsd.adapters.base import Adapter, Dropout, Factors, Options, core_by, uniform
from ppsd.adapters.layers import is_linear, mix, transform

W1, W1_A, W1_B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
W2, W2_A, W2_B, CORE = "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"


class LoKr(Adapter):
    """A weight of [m*p,n*q,kh,kw] is changed by kron(w1 [m,n], w2 [p,q,kh,kw]); each is whole or a product itself.

    w1_a [m,r], w1_b [r,n]; w2_a [p,r], w2_b [r,q*kh*kw], or with a core t2 [r,r,kh,kw] (Tucker) [r,p] and [r,q].
    """

    algorithm = "lokr"
    leaves = frozenset({W1, W1_A, W1_B, W2, W2_A, W2_B, CORE})

    def __init__(self, factors: Factors, shape: Sequence[int], dropout: Dropout = Dropout()) -> None:  # noqa: B008
        names = set(factors) & self.leaves
        if {W1, W1_A, W1_B} & names not in ({W1}, {W1_A, W1_B}):
            raise ValueError(f"LoKr has either {W1} or {W1_A} and {W1_B}")
        if {W2, W2_A, W2_B} & names not in ({W2}, {W2_A, W2_B}) or {W2, CORE} <= names:
            raise ValueError(f"LoKr has either {W2} or {W2_A} and {W2_B}, and {CORE} only with these")
        super().__init__(factors, shape, dropout)

    @classmethod
    def initial(cls, shape: Sequence[int], options: Options, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """As LyCORIS begins. A factor whose rank would be half its size or more is whole."""
        out, within, *kernel = shape
        rank, size = options.rank, math.prod(kernel)
        (m, p), (n, q) = factorization(out, options.factor), factorization(within, options.factor)
        if options.decompose_both and rank < max(m, n) / 2:
            factors = {W1_A: uniform([m, rank], rank, rng), W1_B: uniform([rank, n], n, rng)}
        else:
            factors = {W1: uniform([m, n], n, rng)}
        if rank >= max(p, q) / 2:
            return {**factors, W2: np.zeros([p, q, *kernel], np.float32)}
        if options.tucker and size > 1:
            core = uniform([rank, rank, *kernel], rank * size, rng)
            return {**factors, CORE: core, W2_A: uniform([rank, p], p, rng), W2_B: np.zeros([rank, q], np.float32)}
        return {**factors, W2_A: uniform([p, rank], rank, rng), W2_B: np.zeros([rank, q * size], np.float32)}

    @property
    def rank(self) -> int:
        """Of the factors that are products. Whole ones have none; the number is then w2's, and scales nothing."""
        of_w2 = self.lokr_w2.shape[1] if W2 in self._leaves else self.lokr_w2_b.shape[0]
        return int(self.lokr_w1_b.shape[0] if W1_B in self._leaves else of_w2)

    @property
    def scale(self) -> float:
        """alpha / rank, or 1 where both factors are whole, whatever alpha says (LyCORIS)."""
        return 1.0 if {W1, W2} <= set(self._leaves) else super().scale

    def product(self) -> paddle.Tensor:
        w1, w2 = self._w1(), self._w2()
        (m, n), (p, rest) = w1.shape, w2.shape
        return (w1.reshape([m, 1, n, 1]) * w2.reshape([1, p, 1, rest])).reshape([m * p, -1, *self.shape[2:]])

    def added(self, x: paddle.Tensor, layer: nn.Layer) -> paddle.Tensor:
        """x [...,n*q] or [B,n*q,h,w]. w2 acts within each of its n groups of features, w1 across them.

        So the weight is never formed. On a CPU, forward and backward of 1280 x 1280 take a third of the time or less.
        """
        linear = is_linear(layer)
        if self.decomposes or not (linear or layer._data_format == "NCHW"):
            return super().added(x, layer)
        w1, (first, *then) = (self._w1() * self.scale).astype(x.dtype), self._w2_steps()
        batch, size = (x.shape[:-1], []) if linear else (x.shape[:1], x.shape[2:])
        count, (m, n) = math.prod(batch), w1.shape
        kernel = first.reshape([first.shape[0], -1, *self.shape[2:]]).astype(x.dtype)
        low = transform(layer, x.reshape([count * n, -1, *size]), kernel)
        low = paddle.matmul(w1, low.reshape([count, n, -1])).reshape([count * m, *low.shape[1:]])
        out = mix(layer, low, then[0].astype(x.dtype)) if then else low
        return self.dropped(self.without_rows(out.reshape([*batch, -1, *out.shape[2:]]), len(batch)))

    def _w1(self) -> paddle.Tensor:
        """[m,n]"""
        return self.lokr_w1 if W1 in self._leaves else paddle.matmul(self.lokr_w1_a, self.lokr_w1_b)

    def _w2(self) -> paddle.Tensor:
        """[p,q*kh*kw]"""
        first, *then = self._w2_steps()
        return paddle.matmul(then[0], first) if then else first

    def _w2_steps(self) -> list[paddle.Tensor]:
        """w2 [p,q*kh*kw]; or [r,q*kh*kw] and [p,r], which is applied to what the first gives."""
        if W2 in self._leaves:
            return [self.lokr_w2.flatten(1)]
        if CORE in self._leaves:
            return [core_by(self.lokr_t2, self.lokr_w2_b), self.lokr_w2_a.T]
        return [self.lokr_w2_b, self.lokr_w2_a]


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """(m, n) with m * n == dimension and m <= n: m as large as can be, up to `factor` where that is positive.

    A factor that divides the dimension is one of the two. LyCORIS's rule, so that files fit.
    """
    if factor > 0 and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    most = math.isqrt(dimension) if factor < 0 else min(factor, math.isqrt(dimension))
    m = next(m for m in range(max(most, 1), 0, -1) if dimension % m == 0)
    return m, dimension // m
