"""While training: the loss of records that are not trained on. It falls as long as what is learnt holds for others."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Optional

from ppsd.compat import meet

import numpy as np
from paddlenlp.trainer import Trainer, TrainerCallback

from ppsd.models.ema import EMA
from ppsd.trainers.due import Every
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.held_out import HeldOut
from ppsd.trainers.held_out_loss import HeldOutLoss
from ppsd.trainers.measurements import Estimate, Measurements, estimate
from ppsd.trainers.processes import everyones

logger = logging.getLogger(__name__)

SURE = 3.0  # standard errors above the lowest, from which on it is not chance


class ValidationCallback(TrainerCallback):
    """Before the first step, when `every` says, and at the end. All processes take their share of the records.

    log: takes the figures into the trainer's log (console, VisualDL, state). Draws nothing from any generator.
    """

    def __init__(
        self,
        loss: HeldOutLoss,
        every: Every,
        ema: Optional[EMA],
        precision: Callable[[], AbstractContextManager],
        log: Callable[[dict[str, float]], None],
        heart: Heart,
    ) -> None:
        self.loss, self.every, self.ema = loss, every, ema
        self.precision, self.log, self.heart = precision, log, heart
        held_out = loss.held_out
        self.measured = Measurements(held_out.digest(), held_out.names, loss.count)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            count = len(self.measured.names)
            logger.info(
                "held-out loss: %d records (%s) at %d timesteps each", count, self.measured.digest, self.loss.count
            )
        if state.global_step:
            self.measured.load(Path(args.output_dir), until=state.global_step)
        else:
            self.measure(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every.due(state.global_step) or state.global_step >= state.max_steps:
            self.measure(args, state)

    def measure(self, args: Any, state: Any) -> None:
        """With the trained weights, and with their average where there is one that is not yet the same."""
        step = state.global_step
        self.measured.losses[step] = self._losses(args)
        if self.ema is not None and self.ema.updates:
            with self.ema.applied():
                self.measured.averaged[step] = self._losses(args)
        lowest = self.measured.lowest()
        assert lowest is not None
        self.log(figures(self.measured, step, lowest))
        if state.is_world_process_zero:
            logger.info("step %d/%d %s", step, state.max_steps, sentence(self.measured, step, lowest))
        if args.should_save:
            self.measured.save(Path(args.output_dir))

    def _losses(self, args: Any) -> np.ndarray:
        with self.heart.during(Phase.VALIDATION), self.precision():
            share = self.loss.share(args.process_index, args.world_size, lambda: self.heart.beat(Phase.VALIDATION))
        with self.heart.during(Phase.EXCHANGE):
            meet()
            return self.loss.means(everyones(share))


def make_validation(trainer: Any, held_out: HeldOut) -> ValidationCallback:
    """Of a StableDiffusionTrainer, as its flags say."""
    run = trainer.run
    loss = HeldOutLoss(
        held_out,
        partial(trainer.losses, trainer.step),
        trainer.step,
        trainer.latent_shape,
        batch_size=run.args.per_device_train_batch_size,
        num_train_timesteps=trainer.step.objective.schedule.num_train_timesteps,
        noise_offset=run.model.noise_offset,
    )
    every = run.args.loss_period(run.steps_per_epoch)
    log = partial(_log, trainer)
    return ValidationCallback(loss, every, trainer.ema, trainer.autocast_smart_context_manager, log, trainer.heart)


def _log(trainer: Any, named: dict[str, float]) -> None:
    """As the base does: the trainer's own adds what it has measured since its last log. That log is still to come."""
    due = trainer.control.should_log
    Trainer.log(trainer, named)
    trainer.control.should_log = due


def figures(measured: Measurements, step: int, lowest: int) -> dict[str, float]:
    """For the log: the mean, its standard error, and how far it is above the lowest so far."""
    found = {"validation_loss": estimate(measured.losses[step])}
    if step in measured.averaged:
        found["validation_loss_ema"] = estimate(measured.averaged[step])
    if lowest != step:
        found["validation_rise"] = measured.change(step, since=lowest)
    named = {name: value for name, (value, _) in found.items()}
    named.update({f"{name}_error": error for name, (_, error) in found.items() if not math.isnan(error)})
    return {name: round(value, 8) for name, value in named.items()}


def sentence(measured: Measurements, step: int, lowest: int) -> str:
    """The same for a person."""
    words = f"validation loss {_shown(estimate(measured.losses[step]))}"
    if step in measured.averaged:
        words += f", with EMA {_shown(estimate(measured.averaged[step]))}"
    if lowest == step:
        return f"{words}: the lowest so far" if len(measured.losses) > 1 else words
    rise = measured.change(step, since=lowest)
    words += f", {_shown(rise)} above that of step {lowest}"
    return f"{words}: over-fitting, not chance" if rise.value > SURE * rise.error else words


def _shown(found: Estimate) -> str:
    return f"{found.value:.5f}" + ("" if math.isnan(found.error) else f" ± {found.error:.5f}")
