"""Between the backward pass and the update: the norm of the gradients, clipping by it, and a veto."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
import paddle
from paddle.nn.clip import _squared_l2_norm

ParamsGrads = Sequence[tuple[paddle.Tensor, paddle.Tensor]]
Judge = Callable[[ParamsGrads], bool]

_HALF = (paddle.float16, paddle.bfloat16)


def install_judge(optimizer: Any, judge: Judge) -> None:
    """Have `judge` see the gradients before each update of `optimizer`; where it returns False nothing is updated.

    Wrappers of the optimizer (sharding, master gradients) hand their gradients to this method of the innermost one.
    A weight whose learning rate is 0 stays as it is, and so does its state: momentum would move it on. Its gradient
    counts for nothing: the others would be clipped for it.
    """
    apply = optimizer._apply_optimize

    def judged(loss: Any, startup_program: Any, params_grads: ParamsGrads, *rest: Any, **named: Any) -> Any:
        moving = [pair for pair in params_grads if pair[0].optimize_attr["learning_rate"]]
        if not judge(moving) or not moving:
            return None
        return apply(loss, startup_program, moving, *rest, **named)

    optimizer._apply_optimize = judged


@paddle.no_grad()
def square_norm(params_grads: ParamsGrads) -> paddle.Tensor:
    """Squared L2 norm of all gradients together, float32 [1]."""
    squares = [
        _squared_l2_norm(g.astype("float32") if g.dtype in _HALF else g).reshape([])
        for _, g in params_grads
        if g is not None
    ]
    return paddle.stack(squares).sum().reshape([1]) if squares else paddle.zeros([1])  # a shard may have no gradient


@paddle.no_grad()
def clip_(params_grads: ParamsGrads, norm: float, max_norm: float) -> None:
    """Scale gradients of global norm `norm` in place so that it is at most `max_norm`; 0 or less: no limit."""
    if not 0 < max_norm < norm:
        return
    coefficient = paddle.to_tensor(np.float32(max_norm) / np.float32(norm))
    for _, gradient in params_grads:
        if gradient is not None:
            gradient.multiply_(coefficient.astype(gradient.dtype))


def not_finite(params_grads: ParamsGrads, names: dict[str, str], limit: int = 5) -> list[str]:
    """Names of up to `limit` parameters whose gradient has a NaN or an infinity. names: by paddle's."""
    found: list[str] = []
    for parameter, gradient in params_grads:
        if gradient is not None and not bool(paddle.isfinite(gradient).all()):
            found.append(names.get(parameter.name, parameter.name))
        if len(found) == limit:
            break
    return found
