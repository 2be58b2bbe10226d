"""All that watches over a run, in one callback: signals, what is not finite, hangs, lost processes."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from paddlenlp.trainer import TrainerCallback

from ppsd.trainers.agreement import Agreement
from ppsd.trainers.arguments import SDTrainingArguments
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.nan_guard import UpdateGuard
from ppsd.trainers.processes import everyones
from ppsd.trainers.records import StepRecords
from ppsd.trainers.signals import StopSignals
from ppsd.trainers.status_board import StatusBoard
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.watchdog import Watchdog

_COMMUNICATION = re.compile(r"gloo|nccl|bkcl|hccl|process ?group", re.IGNORECASE)


class Watch(TrainerCallback):
    """Comes before the callbacks that have to know whether the update was made.

    stopped: the run ends before its last step because a process was told to; by `reason`.
    """

    def __init__(
        self, heart: Heart, signals: StopSignals, guard: UpdateGuard, board: StatusBoard, watchdog: Watchdog
    ) -> None:
        self.heart, self.signals, self.guard, self.board, self.watchdog = heart, signals, guard, board, watchdog
        self.stopped = False

    @property
    def reason(self) -> str:
        number = self.signals.requested
        return signal.Signals(number).name if number else "a signal to another process"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.heart.step = state.global_step + 1
        self.heart.beat(Phase.DATA)
        self.watchdog.start()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Until the first step there is nothing to save: signals end the process as usual."""
        self.signals.install()

    def on_optimizer_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.guard.settle()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.heart.step = state.global_step + 1
        self.heart.beat(Phase.COMPUTE)
        if self.guard.agreed is not None and self.guard.agreed.stop:
            self.stopped = control.should_training_stop = True
            control.should_save = str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"

    @contextmanager
    def over(self) -> Iterator[None]:
        """Around the training: an exchange that fails becomes a ValueError that says who is missing."""
        self.board.start()
        try:
            yield
        except (RuntimeError, OSError) as error:
            if self.board.size == 1 or not _COMMUNICATION.search(str(error)):
                raise
            raise ValueError(self._lost(error)) from error
        finally:
            self.watchdog.close()
            self.signals.restore()
            self.board.close()

    def _lost(self, error: Exception) -> str:
        cause = self.board.lost() or self.board.behind()
        said = " ".join(str(error).split())
        return (
            f"rank {self.board.rank}, step {self.heart.step}: the exchange with the other processes failed while "
            f"{self.heart.phase.value}: {cause}. ({said[-300:]}) The same command continues the newest checkpoint"
        )

    def watched(self, loader: Iterable[Any], where: Callable[[], str]) -> Iterator[Any]:
        """The batches, with the phases that getting them and computing with them are. where: as of the watchdog."""
        batches = iter(loader)
        while True:
            self.heart.beat(Phase.DATA)
            try:
                batch: Optional[Any] = next(batches, None)
            except ValueError as error:
                if self.board.size == 1:
                    raise
                raise ValueError(f"rank {self.board.rank}, step {self.heart.step}: {error}") from error
            except RuntimeError as error:
                if not re.match(r"data worker \d+ died", str(error)):
                    raise
                raise ValueError(
                    f"rank {self.board.rank}, step {self.heart.step}: {error}; it made samples of {where()}. The same "
                    f"command continues the newest checkpoint"
                ) from error
            if batch is None:
                return
            self.heart.beat(Phase.COMPUTE)
            yield batch


def make_watch(
    args: SDTrainingArguments, heart: Heart, step: DiffusionStep, tokenizer: Any, loader: Callable[[], Any]
) -> Watch:
    """As the flags say. loader: that of the run, once there is one."""
    rank, size = args.process_index, args.world_size
    signals, board = StopSignals(), StatusBoard(rank, size, heart)
    records = StepRecords(
        rank,
        lambda rows: loader().names(rows),
        lambda ids: [" ".join(text.split()) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)],
    )
    guard = UpdateGuard(
        Agreement(rank, size, copies=args.data_parallel_degree if args.sharding else size),
        heart,
        records,
        on_nan=args.on_nan,
        max_grad_norm=args.max_grad_norm,
        output_dir=Path(args.output_dir),
        gather=everyones,
        stop_requested=lambda: signals.requested is not None,
        names={p.name: name for name, p in step.named_parameters()},
    )
    silence = 20.0 if str(args.device).startswith("cpu") else 60.0  # gloo aborts the process after 30
    watchdog = Watchdog(heart, board, args.data_timeout, args.step_timeout, lambda: str(loader().waited_for()), silence)
    return Watch(heart, signals, guard, board, watchdog)
