"""The paddlenlp Trainer, with what is Stable Diffusion's own: the data stream, the loss, what is saved and loaded."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Optional

import paddle
from paddlenlp.trainer import PrinterCallback
from paddlenlp.trainer.integrations import VisualDLCallback
from paddlenlp.trainer.trainer import DEFAULT_PROGRESS_CALLBACK

from ppsd.diffusion.draws import Draws, draw
from ppsd.diffusion.objective import reduce
from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.models.memory import halve_frozen
from ppsd.sampling.pipeline import build_pipeline
from ppsd.trainers.adapter import seed_dropout
from ppsd.trainers.callbacks import EMACallback, LastStepCallback, ProgressCallback, SaveCallback
from ppsd.trainers.changes import settings
from ppsd.trainers.checkpointing import CheckpointingTrainer
from ppsd.trainers.due import Every
from ppsd.trainers.embeddings import TrainedUntil, UnseenTokens
from ppsd.trainers.gradients import install_judge
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.held_out import HeldOut
from ppsd.trainers.meter import Meter
from ppsd.trainers.method import Method
from ppsd.trainers.optimizer import learning_rate_ratios, trained_parameters, undecayed
from ppsd.trainers.optimizers.factory import make_optimizer
from ppsd.trainers.previews import PreviewCallback
from ppsd.trainers.processes import from_first
from ppsd.trainers.run import Run
from ppsd.trainers.run_state import load_positions
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.trained import frozen_weights
from ppsd.trainers.validation import make_validation
from ppsd.trainers.watching import Watch, make_watch

logger = logging.getLogger(__name__)


class StableDiffusionTrainer(Method, CheckpointingTrainer):
    """Text-to-image training. A method is a subclass that overrides what it does otherwise (see Method).

    `make_loader(positions)` gives the batches, from the start (None) or from where saved positions say.
    cached: they are of latents that were checked against the bundle (ppsd.trainers.cached_data).
    held_out: records whose loss is measured and never trained on.
    """

    def __init__(
        self,
        run: Run,
        bundle: Bundle,
        step: DiffusionStep,
        make_loader: Callable[[Optional[list]], Any],
        *,
        cached: bool = False,
        held_out: Optional[HeldOut] = None,
    ) -> None:
        args = run.args
        self.run, self.flags, self.started = run, settings(run), time.time()
        self.bundle, self.make_loader, self.cached = bundle, make_loader, cached
        self.ema = EMA(next(iter(step.trained.values())), args.ema_decay) if args.use_ema else None
        self.meter, self.heart = Meter(), Heart()
        halved = (args.bf16 or args.fp16) and args.fp16_opt_level == "O2"
        whole = self.exports_pipeline or not args.only_save_updated_model
        self.originals = frozen_weights(bundle, whole) if halved or args.frozen_dtype != "float32" else {}
        if args.frozen_dtype != "float32":
            halve_frozen(bundle, step.trained, args.frozen_dtype)
        super().__init__(model=step, args=args)
        self.step = step
        prompts, told = self.preview_files(run)
        self.previews = PreviewCallback(
            self.pipeline(),
            self.ema,
            self.autocast_smart_context_manager,
            self._visualdl,
            run.model.num_inference_steps,
            self.heart,
            every=args.preview_period(run.steps_per_epoch),
            prompts=prompts,
            told=told,
            conditions=self.preview_conditions,
        )
        self.watch = make_watch(args, self.heart, step, bundle.tokenizer, lambda: self.loader)
        self._set_callbacks(held_out)

    def pipeline(self) -> Any:
        """What draws the previews, of the networks that are trained."""
        return build_pipeline(self.bundle, self.step.objective.prediction_type, self.step.text)

    def _set_callbacks(self, held_out: Optional[HeldOut]) -> None:
        """In the order in which they are called: each finds what those before it have done."""
        args, run, trained = self.args, self.run, self.step.trained
        for default in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
            self.remove_callback(default)
        self.add_callback(ProgressCallback(bar=not args.disable_tqdm))
        self.add_callback(self.watch)
        if self.ema is not None:
            self.add_callback(EMACallback(self.ema, lambda: self.watch.guard.applied))
        if held_out is not None:
            self.add_callback(make_validation(self, held_out))
        if "embeddings" in trained:
            until = math.ceil(run.model.train_text_encoder_ti_frac * args.max_steps)
            self.add_callback(TrainedUntil(trained["embeddings"], until))
            self.add_callback(UnseenTokens(trained["embeddings"]))
        self.add_callback(self.previews)
        self.add_callback(SaveCallback(Every(epochs=args.save_every_n_epochs, epoch_steps=run.steps_per_epoch)))
        self.add_callback(LastStepCallback)

    def get_train_dataloader(self) -> Any:
        positions = None
        if self._checkpoint and not self.args.restart_data:
            folder = Path(self._checkpoint)
            positions = from_first(lambda: load_positions(folder))
        self.loader = self.make_loader(positions)
        return _Watched(self.loader, self.meter, self.watch)

    def training_step(self, model: Any, inputs: dict[str, Any]) -> paddle.Tensor:
        self.heart.beat(Phase.COMPUTE)
        loss = super().training_step(model, inputs)
        self.watch.guard.add(inputs, loss)
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: paddle.Tensor, *args: Any, **kwargs: Any) -> None:
        """tr_loss: summed over the steps since the last log; here of those whose update was made, of all devices."""
        if self.control.should_log:
            steps = self.state.global_step - self._globalstep_last_logged
            total = self.watch.guard.mean_loss(steps)
            self._mean_loss = total / steps
            tr_loss.set_value(paddle.full_like(tr_loss, total))
        with self.heart.during(Phase.SAVING) if self.control.should_save else nullcontext():
            super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> paddle.Tensor:
        """Mean over the batch, float32 []."""
        if self.is_world_process_zero():
            self.previews.look(self.args, inputs)
        seed_dropout(self.run.model.adapter_dropout, inputs["seed"])
        draws = draw(
            inputs["seed"],
            self.latent_shape(inputs),
            num_train_timesteps=self.step.objective.schedule.num_train_timesteps,
            noise_offset=self.run.model.noise_offset,
            input_perturbation=self.run.model.input_perturbation,
            masked="mask" in inputs,
        )
        if "moments" in inputs and not self.cached:
            raise ValueError("--file_list mixes images and cached latents: cache all of it, or none")
        return reduce(self.losses(model, inputs, draws), inputs["weight"])

    def losses(self, model: Any, inputs: Mapping[str, Any], draws: Draws) -> paddle.Tensor:
        """Of each sample, float32 [B]."""
        given = {name: inputs[name] for name in ("pixels", "moments", "hidden", *self.conditions) if name in inputs}
        return model(input_ids=inputs["input_ids"], draws=draws, **given)

    def latent_shape(self, inputs: Mapping[str, Any]) -> tuple[int, int, int]:
        """(C,h,w) of a batch."""
        channels = self.bundle.vae.config.latent_channels
        if "moments" in inputs:
            return channels, *inputs["moments"].shape[-2:]
        factor = self.bundle.vae_scale_factor
        height, width = inputs["pixels"].shape[-2:]
        return channels, height // factor, width // factor

    optimizer: Any

    def create_optimizer(self, lr_scheduler: Any = None) -> Any:
        """The flags'; each layer at its own rate; no decay on biases and norms."""
        if self.optimizer is None:
            kept = undecayed(self.step)
            self.optimizer = make_optimizer(
                self.args,
                trained_parameters(self.step.trained, learning_rate_ratios(self.run, self.bundle)),
                self.lr_scheduler if lr_scheduler is None else lr_scheduler,
                apply_decay=lambda name: name not in kept,
            )
            install_judge(self.optimizer, self.watch.guard.judge)  # which clips, too
        return self.optimizer

    def train(self, resume_from_checkpoint: Optional[str] = None, **kwargs: Any) -> Any:
        self._checkpoint = resume_from_checkpoint
        with self.watch.over():
            done = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        tally = self.loader.tally
        logger.log(logging.WARNING if tally.unexpected else logging.INFO, "data of this run: %s", tally)
        self.loader.close()
        return done

    def log(self, logs: dict[str, float], **kwargs: Any) -> None:
        """Where a run goes on, its first mean is also of the steps before that were not logged."""
        if "loss" in logs:
            logs["loss"] = round(self._mean_loss, 8)  # the base has rounded it to float32
        if "train_loss" in logs:  # which the base has divided by all steps of the run
            logs["train_loss"] *= self.state.global_step / max(self.state.global_step - self.begun_at, 1)
        agreed = self.watch.guard.agreed
        if "loss" in logs and agreed is not None and agreed.grad_norm is not None:
            logs["grad_norm"] = round(agreed.grad_norm, 6)
        if self.watch.guard.skipped:
            logs["skipped_updates"] = self.watch.guard.skipped
        logs.update(self.meter.read())
        advice = self.meter.advice(self.args.dataloader_num_workers)
        if advice:
            logger.warning("step %d: %s", self.state.global_step, advice)
        super().log(logs, **kwargs)

    def print_config(self, args: Any = None, key: str = "") -> None:
        """Kept out of the log (150 lines); `training_args.json` in the output folder has every value."""
        if self.args.should_save:
            Path(self.args.output_dir, "training_args.json").write_text(self.args.to_json_string(), encoding="utf-8")

    def _visualdl(self) -> Any:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, VisualDLCallback):
                return callback.vdl_writer
        return None


class _Watched:
    """The loader with its waits timed and watched. It has no length, by which the base would count epochs anew where
    a run goes on with another batch size, and end it early."""

    def __init__(self, loader: Any, meter: Meter, watch: Watch) -> None:
        self.loader, self.meter, self.watch = loader, meter, watch

    def __iter__(self) -> Iterator[Any]:
        return self.meter.watch(self.watch.watched(self.loader, self.loader.waited_for))
