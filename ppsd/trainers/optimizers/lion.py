"""Lion: the sign of a momentum (arXiv 2302.06675, algorithm 2)."""

from __future__ import annotations

from typing import Any

import paddle

from ppsd.trainers.optimizers.base import TensorOptimizer


class Lion(TensorOptimizer):
    """One moment. Wants a learning rate 3 to 10 times smaller than AdamW's, and a decay as many times larger."""

    def __init__(self, *args: Any, betas: tuple[float, float] = (0.9, 0.99), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._betas = betas

    def _make_state(self, weight: paddle.Tensor) -> None:
        self._add_moment(weight, "moment")

    def _update(self, weight: paddle.Tensor, gradient: paddle.Tensor, rate: paddle.Tensor, decay: float) -> None:
        beta1, beta2 = self._betas
        moment = self._moment(weight, "moment", signed=True)
        direction = (moment * beta1 + gradient * (1 - beta1)).sign()
        if decay:
            weight.multiply_(1 - rate * decay)
        weight.subtract_(direction * rate)
        moment.scale_(beta2).add_(gradient * (1 - beta2))
        self._keep_moment(weight, "moment", moment, signed=True)


class Lion8bit(Lion):
    """The same with its moment in 8 bits."""

    eight_bit = True
