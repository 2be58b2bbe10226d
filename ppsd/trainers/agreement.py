"""What all processes have to know of a step before its update: one small sum over them, and one wait of the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import paddle


@dataclass(frozen=True)
class Agreed:
    """The same in every process.

    loss: mean over all devices and micro-batches, without those of `bad_ranks`, whose loss is NaN or infinite.
    grad_norm: L2 norm of all gradients; None where the loss scaler has left the step out. stop: a process was told to.
    """

    loss: float
    grad_norm: Optional[float]
    bad_ranks: tuple[int, ...]
    stop: bool

    @property
    def finite(self) -> bool:
        return not self.bad_ranks and (self.grad_norm is None or math.isfinite(self.grad_norm))


class Agreement:
    """Between `size` processes, of which this is number `rank`.

    copies: how many of them hold each gradient: all, but with sharding as many as there are whole models.
    """

    def __init__(self, rank: int = 0, size: int = 1, copies: int = 1) -> None:
        self.rank, self.size, self.copies = rank, size, copies
        self._mine = paddle.nn.functional.one_hot(paddle.to_tensor([rank]), size)[0] if size > 1 else None

    def reach(self, losses: Sequence[paddle.Tensor], square: Optional[paddle.Tensor], stop: bool) -> Agreed:
        """losses: of this process's micro-batches, each [] and divided by their number.

        square: squared L2 norm [1] of the gradients that this process holds.
        """
        known = paddle.zeros([1]) if square is None else square
        loss, summed, bad, stopping = self._sum(losses, known, stop)
        return Agreed(loss, None if square is None else math.sqrt(summed / self.copies), bad, stopping)

    def _sum(
        self, losses: Sequence[paddle.Tensor], square: paddle.Tensor, stop: bool
    ) -> tuple[float, float, tuple[int, ...], bool]:
        total = paddle.zeros([1])
        for loss in losses:
            total = total + loss.reshape([1]).astype("float32")
        if self._mine is None:
            loss, summed = paddle.concat([total, square]).tolist()
            return loss, summed, () if math.isfinite(loss) else (0,), stop
        finite = paddle.isfinite(total)
        numbers = paddle.concat(
            [
                paddle.where(finite, total, paddle.zeros([1])),
                square,
                paddle.to_tensor([float(stop)]),
                self._mine * (1 - finite.astype("float32")),
            ]
        )
        paddle.distributed.all_reduce(numbers)
        loss, summed, stops, *flags = numbers.tolist()
        bad = tuple(rank for rank, flag in enumerate(flags) if flag)
        return loss / max(self.size - len(bad), 1), summed, bad, stops > 0
