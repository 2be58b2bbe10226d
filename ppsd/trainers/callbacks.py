"""What happens again and again, but for pictures and held-out losses: EMA, log lines, saves."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Optional

from paddlenlp.trainer import TrainerCallback
from tqdm import tqdm

from ppsd.models.ema import EMA
from ppsd.trainers.due import Every

logger = logging.getLogger(__name__)


class EMACallback(TrainerCallback):
    """After each optimizer step, one update of the average. applied: whether the step has changed the weights."""

    def __init__(self, ema: EMA, applied: Callable[[], bool]) -> None:
        self.ema, self.applied = ema, applied

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.applied():
            self.ema.update()


class ProgressCallback(TrainerCallback):
    """A progress bar (unless `--disable_tqdm`), and every `logging_steps` one line of what matters."""

    def __init__(self, bar: bool) -> None:
        self.bar = bar
        self.tqdm: Optional[tqdm] = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_local_process_zero:
            self.tqdm = tqdm(total=state.max_steps, initial=state.global_step, desc="training", disable=not self.bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tqdm is not None:
            self.tqdm.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.tqdm is None or "loss" not in (logs or {}):
            return
        self.tqdm.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        logger.info("step %d/%d %s", state.global_step, state.max_steps, one_line(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tqdm is not None:
            self.tqdm.close()


def one_line(logs: Mapping[str, float]) -> str:
    """The loss and the figures that tell whether the machine is used well."""
    parts = [
        f"loss {logs['loss']:.5f}",
        f"lr {logs['learning_rate']:.3g}",
        f"gradient norm {logs.get('grad_norm', math.nan):.3g}",
        f"{logs.get('interval_samples_per_second', 0):.1f} samples/s",
        f"waiting for data {logs.get('data_wait_share', 0):.0%}",
        f"memory {logs.get('peak_memory_gb', 0):.1f} GB",
    ]
    if "peak_gpu_memory_gb" in logs:
        parts.append(f"GPU {logs['peak_gpu_memory_gb']:.1f} GB")
    return ", ".join(parts)


class SaveCallback(TrainerCallback):
    """Saves when `every` says, too, beside what --save_strategy asks for."""

    def __init__(self, every: Every) -> None:
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= self.every.due(state.global_step)


class LastStepCallback(TrainerCallback):
    """The last step is always logged and saved, so that a finished run is recognised as finished."""

    logged = -1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_save |= str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.logged = state.global_step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Under --logging_strategy epoch: what was logged by its step has no steps left to take the mean of."""
        if self.logged == state.global_step:
            control.should_log = False
