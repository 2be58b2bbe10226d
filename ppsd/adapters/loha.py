"""LoHa (arXiv 2108.06098, LyCORIS): the change of a weight is two products of thin matrices, multiplied elementwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
from paddle.autograd import PyLayer

from ppsd.adapters.base import Adapter, Options, core_by

NAMES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
CORES = ("hada_t1", "hada_t2")


class LoHa(Adapter):
    """hada_w*_a [out,r], hada_w*_b [r,in*kh*kw]; with cores hada_t* [r,r,kh,kw] (Tucker), [r,out] and [r,in]."""

    algorithm = "loha"
    leaves = frozenset({*NAMES, *CORES})

    @classmethod
    def initial(cls, shape: Sequence[int], options: Options, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Normal with LyCORIS's deviations; hada_w2_a is 0."""
        out, within, *kernel = shape
        rank, size = options.rank, math.prod(kernel)
        if options.tucker and size > 1:
            first, second = [rank, out], [rank, within]
            factors = {name: _normal([rank, rank, *kernel], 0.1, rng) for name in CORES}
        else:
            first, second, factors = [out, rank], [rank, within * size], {}
        made = (_normal(first, 0.1, rng), _normal(second, 1, rng), np.zeros(first, np.float32), _normal(second, 1, rng))
        return {**dict(zip(NAMES, made)), **factors}

    @property
    def rank(self) -> int:
        return int(self.hada_w1_b.shape[0])

    def product(self) -> paddle.Tensor:
        w1_a, w1_b, w2_a, w2_b = (getattr(self, name) for name in NAMES)
        if CORES[0] in self._leaves:
            w1_a, w1_b = w1_a.T, core_by(self.hada_t1, w1_b)
            w2_a, w2_b = w2_a.T, core_by(self.hada_t2, w2_b)
        product = HadamardOfProducts.apply(w1_a, w1_b, w2_a, w2_b)
        return product.reshape([product.shape[0], -1, *self.shape[2:]])


class HadamardOfProducts(PyLayer):
    """(a @ b) * (c @ d) for a, c [m,r] and b, d [r,n].

    Both products are as large as the layer's weight; they are computed again for the gradient, not kept until then.
    """

    @staticmethod
    def forward(ctx, a, b, c, d):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(a, b, c, d)
        return paddle.matmul(a, b) * paddle.matmul(c, d)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        a, b, c, d = ctx.saved_tensor()
        of_left, of_right = gradient * paddle.matmul(c, d), gradient * paddle.matmul(a, b)
        left = paddle.matmul(of_left, b, transpose_y=True), paddle.matmul(a, of_left, transpose_x=True)
        right = paddle.matmul(of_right, d, transpose_y=True), paddle.matmul(c, of_right, transpose_x=True)
        factors = zip((a, b, c, d), left + right)
        return tuple(None if factor.stop_gradient else value for factor, value in factors)


def _normal(shape: Sequence[int], deviation: float, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0.0, deviation, shape).astype(np.float32)
