"""Adafactor: second moments by rows and columns (arXiv 1804.04235, algorithms 4 and 5)."""

from __future__ import annotations

from typing import Any, Optional

import paddle

from ppsd.trainers.optimizers.base import TensorOptimizer


class Adafactor(TensorOptimizer):
    """The options and their effects are those of transformers' Adafactor, but for two.

    `relative_step` and `scale_parameter` are off unless asked for, so that the learning rate is the scheduler's. A
    convolution [O,I,k,k] is factored as the matrix [O,I*k*k]: transformers factors each of its k x k kernels, which for
    k = 3 keeps two thirds of the state.
    """

    def __init__(
        self,
        *args: Any,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: Optional[float] = None,
        scale_parameter: bool = False,
        relative_step: bool = False,
        warmup_init: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._eps, self._clip_threshold, self._decay_rate, self._beta1 = eps, clip_threshold, decay_rate, beta1
        self._scale_parameter, self._relative_step, self._warmup_init = scale_parameter, relative_step, warmup_init

    def _make_state(self, weight: paddle.Tensor) -> None:
        if len(weight.shape) >= 2:
            rows, columns = matrix_shape(weight.shape)
            self._add_accumulator("row", weight, dtype=paddle.float32, shape=[rows, 1])
            self._add_accumulator("column", weight, dtype=paddle.float32, shape=[1, columns])
        else:
            self._add_accumulator("moment2", weight, dtype=paddle.float32)
        if self._beta1 is not None:
            self._add_accumulator("moment1", weight, dtype=paddle.float32)
        self._add_accumulator("steps", weight, dtype=paddle.float32, shape=[1])

    def _update(self, weight: paddle.Tensor, gradient: paddle.Tensor, rate: paddle.Tensor, decay: float) -> None:
        steps = self._get_accumulator("steps", weight)
        steps.add_(paddle.ones([1]))
        rate = self._step_size(weight, rate, steps)
        update = self._scaled(weight, gradient, (1 - steps**self._decay_rate).reshape([]))
        update.divide_((root_mean_square(update) / self._clip_threshold).clip(min=1.0))
        update.multiply_(rate)
        if self._beta1 is not None:
            moment = self._get_accumulator("moment1", weight)
            moment.scale_(self._beta1).add_(update * (1 - self._beta1))
            update = moment
        if decay:
            weight.multiply_(1 - rate * decay)
        weight.subtract_(update)

    def _step_size(self, weight: paddle.Tensor, rate: paddle.Tensor, steps: paddle.Tensor) -> paddle.Tensor:
        """float32 []. With `relative_step` the scheduler's rate does not count."""
        if self._relative_step:
            longest = steps * 1e-6 if self._warmup_init else paddle.full([1], 1e-2)
            rate = paddle.minimum(longest, steps.rsqrt()).reshape([])
        if self._scale_parameter:
            rate = rate * root_mean_square(weight).clip(min=self._eps[1])
        return rate

    def _scaled(self, weight: paddle.Tensor, gradient: paddle.Tensor, beta2: paddle.Tensor) -> paddle.Tensor:
        """The gradient over the root of its mean square, of the gradient's shape; moves the second moments on."""
        if len(weight.shape) < 2:
            moment = self._get_accumulator("moment2", weight)
            moment.multiply_(beta2).add_((gradient.square() + self._eps[0]) * (1 - beta2))
            return gradient * moment.rsqrt()
        matrix = gradient.reshape(matrix_shape(gradient.shape))
        squares = matrix.square() + self._eps[0]
        row, column = self._get_accumulator("row", weight), self._get_accumulator("column", weight)
        row.multiply_(beta2).add_(squares.mean(axis=1, keepdim=True) * (1 - beta2))
        column.multiply_(beta2).add_(squares.mean(axis=0, keepdim=True) * (1 - beta2))
        scaled = matrix * (row / row.mean()).rsqrt()
        return (scaled * column.rsqrt()).reshape(gradient.shape)


def matrix_shape(shape: list[int]) -> list[int]:
    """[rows, columns]: all but the first dimension are columns."""
    columns = 1
    for size in shape[1:]:
        columns *= size
    return [shape[0], columns]


def root_mean_square(values: paddle.Tensor) -> paddle.Tensor:
    """float32 []."""
    return values.square().mean().sqrt()
