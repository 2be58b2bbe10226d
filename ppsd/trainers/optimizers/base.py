"""What the optimizers written in tensor operations share; paddle's own are kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

import paddle
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler

from ppsd.trainers.optimizers.moments import BLOCK, SMALLEST, blocks_of, dequantize, quantize


class TensorOptimizer(Optimizer):
    """Updates float32 weights, or the float32 master of a half-precision one (AMP O2), one weight at a time.

    A subclass says which state a weight has (`_make_state`) and how it is updated (`_update`). Learning rates are the
    scheduler's times the weight's `optimize_attr["learning_rate"]`; decay is decoupled (arXiv 1711.05101) and leaves
    weights out whose name `apply_decay_param_fun` is False for.
    """

    eight_bit = False

    def __init__(
        self,
        learning_rate: LRScheduler,
        parameters: Iterable[paddle.Tensor],
        *,
        weight_decay: float = 0.0,
        apply_decay_param_fun: Callable[[str], bool] = lambda name: True,
    ) -> None:
        super().__init__(learning_rate=learning_rate, parameters=parameters)
        self._multi_precision = True
        self._decay, self._decays = float(weight_decay), apply_decay_param_fun
        self._with_state: set[str] = set()

    def _make_state(self, weight: paddle.Tensor) -> None:
        """Add the accumulators of a float32 weight (paddle calls them by its name)."""
        raise NotImplementedError

    def _update(self, weight: paddle.Tensor, gradient: paddle.Tensor, rate: paddle.Tensor, decay: float) -> None:
        """One step, in place. weight, gradient float32 [...]; rate float32 []; decay: 0 where there is none."""
        raise NotImplementedError

    def _create_accumulators(self, block: Any, parameters: Iterable[paddle.Tensor]) -> None:
        for parameter in parameters:
            if parameter.name not in self._with_state:
                self._make_state(self._float32(parameter))
                self._with_state.add(parameter.name)

    @paddle.no_grad()
    def _append_optimize_op(self, block: Any, param_and_grad: tuple[paddle.Tensor, paddle.Tensor]) -> None:
        parameter, gradient = param_and_grad
        weight = self._float32(parameter)
        rate = self._create_param_lr(param_and_grad).astype("float32").reshape([])
        decay = self._decay if self._decays(parameter.name) else 0.0
        self._update(weight, gradient.astype("float32"), rate, decay)
        if weight is not parameter:
            paddle.assign(weight.astype(parameter.dtype), parameter)

    def _float32(self, parameter: paddle.Tensor) -> paddle.Tensor:
        """The weight itself, or its master."""
        return self._create_master_weight(parameter) if self._is_dtype_fp16_or_bf16(parameter.dtype) else parameter

    def _add_moment(self, weight: paddle.Tensor, name: str) -> None:
        """float32 of the weight's shape; with `eight_bit`, of large weights bytes and a scale for each 256."""
        if self._is_quantized(weight):
            blocks = blocks_of(weight.size)
            self._add_accumulator(name, weight, dtype=paddle.uint8, shape=[blocks, BLOCK])
            self._add_accumulator(f"{name}_scale", weight, dtype=paddle.float32, shape=[blocks, 1])
        else:
            self._add_accumulator(name, weight, dtype=paddle.float32)

    def _moment(self, weight: paddle.Tensor, name: str, signed: bool) -> paddle.Tensor:
        """float32, to be read or, where it is not quantized, changed in place."""
        value = self._get_accumulator(name, weight)
        if not self._is_quantized(weight):
            return value
        return dequantize(value, self._get_accumulator(f"{name}_scale", weight), signed, weight.shape)

    def _keep_moment(self, weight: paddle.Tensor, name: str, value: paddle.Tensor, signed: bool) -> None:
        """value: what `_moment` gave, changed in place."""
        if self._is_quantized(weight):
            codes, scale = quantize(value, signed)
            paddle.assign(codes, self._get_accumulator(name, weight))
            paddle.assign(scale, self._get_accumulator(f"{name}_scale", weight))

    def _is_quantized(self, weight: paddle.Tensor) -> bool:
        return self.eight_bit and weight.size >= SMALLEST
