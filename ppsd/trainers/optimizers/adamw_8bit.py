"""AdamW with both moments in 8 bits (arXiv 2110.02861)."""

from __future__ import annotations

from typing import Any

import paddle

from ppsd.trainers.optimizers.base import TensorOptimizer


class AdamW8bit(TensorOptimizer):
    """As AdamW8bit of bitsandbytes has it: moments are quantized after the update that uses them."""

    eight_bit = True

    def __init__(self, *args: Any, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._betas, self._eps = betas, eps

    def _make_state(self, weight: paddle.Tensor) -> None:
        self._add_moment(weight, "moment1")
        self._add_moment(weight, "moment2")
        self._add_accumulator("steps", weight, dtype=paddle.float32, shape=[1])

    def _update(self, weight: paddle.Tensor, gradient: paddle.Tensor, rate: paddle.Tensor, decay: float) -> None:
        beta1, beta2 = self._betas
        steps = self._get_accumulator("steps", weight)
        steps.add_(paddle.ones([1]))
        first = self._moment(weight, "moment1", signed=True)
        second = self._moment(weight, "moment2", signed=False)
        first.scale_(beta1).add_(gradient * (1 - beta1))
        second.scale_(beta2).add_(gradient.square() * (1 - beta2))
        if decay:
            weight.multiply_(1 - rate * decay)
        denominator = (second / (1 - beta2**steps)).sqrt() + self._eps
        weight.subtract_(first / denominator * (rate / (1 - beta1**steps)))
        self._keep_moment(weight, "moment1", first, signed=True)
        self._keep_moment(weight, "moment2", second, signed=False)
