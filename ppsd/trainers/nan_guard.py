"""Before each update: is everything finite, on every device? If not, the update is not made."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Callable, Optional

import paddle

from ppsd.trainers.agreement import Agreed, Agreement
from ppsd.trainers.gradients import ParamsGrads, clip_, not_finite, square_norm
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.records import StepRecords, suspects, write_report
from ppsd.trainers.spikes import Spikes

logger = logging.getLogger(__name__)

MOST_SKIPS = 10  # updates left out in a row that end the run under --on_nan skip


class UpdateGuard:
    """Sees the losses and gradients of each step, and agrees with the other processes on what to do about them.

    on_nan: stop or skip. gather: a value of each process, by rank. stop_requested: whether a signal has come.
    names: of the parameters, by paddle's. `agreed`: of the last step. `applied`: its update was made.
    """

    def __init__(
        self,
        agreement: Agreement,
        heart: Heart,
        records: StepRecords,
        *,
        on_nan: str,
        max_grad_norm: float,
        output_dir: Path,
        gather: Callable[[Any], list[Any]],
        stop_requested: Callable[[], bool],
        names: dict[str, str],
    ) -> None:
        self._agreement, self._heart, self._records = agreement, heart, records
        self._on_nan, self._max_grad_norm, self._output_dir = on_nan, max_grad_norm, output_dir
        self._gather, self._stop_requested, self._names = gather, stop_requested, names
        self._losses: list[paddle.Tensor] = []
        self._spikes = Spikes()
        self._in_a_row = 0
        self.skipped, self.applied = 0, True
        self.agreed: Optional[Agreed] = None
        self.loss_sum, self.loss_steps = 0.0, 0

    def add(self, inputs: dict[str, Any], loss: paddle.Tensor) -> None:
        """One micro-batch of the step and its loss []."""
        self._losses.append(loss)
        self._records.add(inputs)

    def judge(self, params_grads: ParamsGrads) -> bool:
        """Agree on the step, and clip the gradients in place. False: its update is not to be made."""
        agreed = self._agree(square_norm(params_grads))
        if agreed.finite:
            assert agreed.grad_norm is not None
            clip_(params_grads, agreed.grad_norm, self._max_grad_norm)
        else:
            self._refuse(agreed, not_finite(params_grads, self._names))
        return self.applied

    def settle(self) -> None:
        """Ends every step. Under --fp16 the loss scaler leaves updates out, of which the optimizer hears nothing."""
        if self._losses:
            agreed = self._agree(None)
            if not agreed.finite:
                self._refuse(agreed, [])

    def mean_loss(self, steps: int) -> float:
        """Of the finite steps since the last call; NaN if there was none. steps: what the caller divides it by."""
        total, count = self.loss_sum, self.loss_steps
        self.loss_sum, self.loss_steps = 0.0, 0
        if count == steps:
            return total
        return total / count * steps if count else math.nan

    def _agree(self, square: Optional[paddle.Tensor]) -> Agreed:
        with self._heart.during(Phase.EXCHANGE):
            agreed = self._agreement.reach(self._losses, square, self._stop_requested())
        self.agreed, self.applied = agreed, agreed.finite and square is not None
        if agreed.finite:
            self._in_a_row = 0
            self.loss_sum, self.loss_steps = self.loss_sum + agreed.loss, self.loss_steps + 1
            usual = self._spikes.usual_if_spike(agreed.loss)
            if usual is not None:
                self._report_spike(agreed.loss, usual)
            self._forget()
        return agreed

    def _forget(self) -> None:
        self._losses = []
        self._records.clear()

    def _entries(self) -> list[dict[str, Any]]:
        """The records of this step in all processes, in the first of them and in those that ask for it."""
        with self._heart.during(Phase.REPORT):
            mine = self._records.describe([float(loss) for loss in self._losses])
            return [entry for entries in self._gather(mine) for entry in entries]

    def _report_spike(self, loss: float, usual: float) -> None:
        entries = self._entries()
        if self._agreement.rank == 0:
            logger.warning(
                "step %d: the loss is %.4g, usually about %.4g; records: %s",
                self._heart.step,
                loss,
                usual,
                _some(entries),
            )

    def _refuse(self, agreed: Agreed, gradients: list[str]) -> None:
        """Write down what was not finite. Raises ValueError where the run is not to go on."""
        step, entries = self._heart.step, self._entries()
        file = self._output_dir / f"nan-step-{step}.json"
        what = _what(agreed)
        if self._agreement.rank == 0:
            try:
                write_report(file, step, what, gradients, entries)
            except OSError as error:  # a full disk, say, must not hide what was found
                logger.error("step %d: cannot write %s: %s", step, file, error.strerror)
        self._forget()
        self._in_a_row += 1
        self.skipped += 1
        said = f"step {step}: {what}; its records, e.g. {_some(suspects(entries), 1)}, are in {file}"
        if self._on_nan == "stop":
            raise ValueError(
                f"{said}. Nothing of this step was applied or saved: lower --learning_rate, look at the records, or "
                f"leave such steps out with --on_nan skip; the same command continues the newest checkpoint"
            )
        if self._in_a_row >= MOST_SKIPS:
            raise ValueError(
                f"{said}. {self._in_a_row} updates in a row were left out (--on_nan skip): lower --learning_rate, or "
                f"continue from an earlier checkpoint of {self._output_dir}"
            )
        if self._agreement.rank == 0:
            logger.warning("%s; the update is left out (%d so far)", said, self.skipped)


def _what(agreed: Agreed) -> str:
    if agreed.bad_ranks:
        ranks = ", ".join(map(str, agreed.bad_ranks[:8]))
        return f"the loss of rank {ranks} is NaN or infinite"
    return "every loss is finite, but the gradients, summed over all ranks, are NaN or infinite"


def _some(entries: list[dict[str, Any]], count: int = 4) -> str:
    shown = [f"{entry['record']} {entry['caption']!r}" for entry in entries[:count]]
    more = len(entries) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 and count > 1 else "")
