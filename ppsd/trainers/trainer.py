"""The paddlenlp Trainer, with what is Stable Diffusion's own: the data stream, the loss, what is saved and loaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Optional

from ppsd.compat import first_alone

import paddle
from paddle.optimizer import AdamW
from paddlenlp.trainer import PrinterCallback, Trainer
from paddlenlp.trainer.integrations import VisualDLCallback
from paddlenlp.trainer.trainer import DEFAULT_PROGRESS_CALLBACK

from ppsd.diffusion.draws import draw
from ppsd.diffusion.objective import reduce
from ppsd.formats.safetensors_file import Digest
from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.trainers.arguments import SDTrainingArguments
from ppsd.trainers.callbacks import EMACallback, LastStepCallback, PreviewCallback, ProgressCallback
from ppsd.trainers.checkpoint import publish, rotate, staged
from ppsd.trainers.exporting import export_pipeline, pipeline_bytes, write_pipeline
from ppsd.trainers.gradients import install_judge
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.meter import Meter
from ppsd.trainers.optimizer import trained_parameters, undecayed
from ppsd.trainers.optimizer_state import OPTIMIZER, OptimizerState, load_optimizer, wrappers
from ppsd.trainers.processes import SharedFile, everyones, from_first
from ppsd.trainers.run_state import (
    load_positions,
    load_scaler,
    random_state,
    read_state,
    save_positions,
    set_random_state,
    write_state,
)
from ppsd.trainers.save_errors import explain, require_room
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.trained import check_architecture, load_trained, save_trained, trained_bytes
from ppsd.trainers.watching import Watch, lane_in_turn, make_watch

logger = logging.getLogger(__name__)


class StableDiffusionTrainer(Trainer):
    """`make_loader(positions)` gives the batches, from the start (None) or from where saved positions say.

    cached: they are of latents that were checked against the bundle (ppsd.trainers.cached_data).
    flags: what checkpoints say the run was told (ppsd.trainers.changes).
    """

    def __init__(
        self,
        bundle: Bundle,
        step: DiffusionStep,
        args: SDTrainingArguments,
        make_loader: Callable[[Optional[list]], Any],
        *,
        noise_offset: float = 0.0,
        input_perturbation: float = 0.0,
        num_inference_steps: int = 50,
        cached: bool = False,
        flags: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.flags = dict(flags or {})
        self.bundle, self.make_loader, self.cached = bundle, make_loader, cached
        self.noise = {"noise_offset": noise_offset, "input_perturbation": input_perturbation}
        self.ema = EMA(bundle.unet, args.ema_decay) if args.use_ema else None
        self.meter, self.heart = Meter(), Heart()
        self._saved_step = -1
        halved = (args.bf16 or args.fp16) and args.fp16_opt_level == "O2"
        self.originals = frozen_weights(bundle) if halved else {}
        super().__init__(model=step, args=args)
        self.step = step
        self.previews = PreviewCallback(
            bundle,
            step.objective.prediction_type,
            self.ema,
            self.autocast_smart_context_manager,
            self._visualdl,
            num_inference_steps,
            self.heart,
        )
        self.watch = make_watch(args, self.heart, step, bundle.tokenizer, lambda: self.loader)
        for default in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
            self.remove_callback(default)
        self.add_callback(ProgressCallback(bar=not args.disable_tqdm))
        self.add_callback(self.watch)
        if self.ema is not None:
            self.add_callback(EMACallback(self.ema, lambda: self.watch.guard.applied))
        self.add_callback(self.previews)
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
            mean = self.watch.guard.mean_loss(self.state.global_step - self._globalstep_last_logged)
            tr_loss.set_value(paddle.full_like(tr_loss, mean))
        with self.heart.during(Phase.SAVING) if self.control.should_save else nullcontext():
            super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> paddle.Tensor:
        """Mean over the batch, float32 []."""
        if self.previews.first is None and self.args.image_logging_steps > 0 and self.is_world_process_zero():
            self.previews.remember(self.args, inputs)
        draws = draw(
            inputs["seed"],
            self._latent_shape(inputs),
            num_train_timesteps=self.step.objective.schedule.num_train_timesteps,
            **self.noise,
        )
        if "moments" in inputs and not self.cached:
            raise ValueError("--file_list mixes images and cached latents: cache all of it, or none")
        given = {name: inputs[name] for name in ("pixels", "moments", "hidden") if name in inputs}
        losses = model(input_ids=inputs["input_ids"], draws=draws, **given)
        return reduce(losses, inputs["weight"])

    def _latent_shape(self, inputs: Mapping[str, Any]) -> tuple[int, int, int]:
        """(C,h,w)."""
        channels = self.bundle.vae.config.latent_channels
        if "moments" in inputs:
            return channels, *inputs["moments"].shape[-2:]
        factor = self.bundle.vae_scale_factor
        height, width = inputs["pixels"].shape[-2:]
        return channels, height // factor, width // factor

    optimizer: Any

    def create_optimizer(self, lr_scheduler: Any = None) -> Any:
        """AdamW; the text encoder at its own rate; no decay on biases and norms."""
        if self.optimizer is None:
            kept = undecayed(self.step)
            kwargs = Trainer.get_optimizer_cls_and_kwargs(self.args)[1]
            self.optimizer = AdamW(
                learning_rate=self.lr_scheduler if lr_scheduler is None else lr_scheduler,
                parameters=trained_parameters(self.step, learning_rate_ratios(self.args)),
                apply_decay_param_fun=lambda name: name not in kept,
                weight_decay=self.args.weight_decay,
                multi_precision=self.args.fp16_opt_level == "O2",
                **kwargs,
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

    def load_to_export(self, checkpoint: str) -> None:
        """The weights of a finished run, in float32: AMP O2 has made the layers half precision, which rounds."""
        if self.args.should_save:
            for layer in (self.bundle.unet, self.bundle.text_encoder):
                layer.to(dtype="float32")
            load_trained(Path(checkpoint), self.bundle, self.step.train_text_encoder, self.ema)

    def export(self) -> Path:
        """Write the pipeline (with the averaged UNet where there is an EMA) to the output folder.

        OSError where it cannot be written; an earlier one is then still there.
        """
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            nbytes = pipeline_bytes(self.bundle)
            try:
                require_room(folder, nbytes)
                export_pipeline(folder, self.bundle, self._prediction_type, averaged=self.ema, masters=self._masters())
            except OSError as error:
                raise OSError(explain(error, "the pipeline", folder, nbytes)) from error
            logger.info("pipeline: %s", folder)
        return folder

    @property
    def _prediction_type(self) -> str:
        return self.step.objective.prediction_type

    def _masters(self) -> Mapping[str, paddle.Tensor]:
        """Float32 weights by paddle name, where AMP O2 has rounded the layers' own: the optimizer's and the frozen."""
        return {**self.originals, **getattr(self.optimizer, "_master_weights", {})}

    def _save(self, output_dir: Optional[str] = None, state_dict: Any = None, **kwargs: Any) -> dict[Path, Digest]:
        """The trained weights, and with --only_save_updated_model False the whole pipeline."""
        folder, masters = Path(output_dir or self.args.output_dir), self._masters()
        written = {}
        if not self.args.only_save_updated_model:
            written = write_pipeline(folder, self.bundle, self._prediction_type, averaged=self.ema, masters=masters)
        return {**written, **save_trained(folder, self.bundle, self.step.train_text_encoder, self.ema, masters)}

    def _save_checkpoint(self, model: Any, metrics: Any = None) -> None:
        """All of the run at this step, by the first process, while the others wait (see ppsd.trainers.checkpoint).

        What cannot be written ends the run in all processes, or with --on_save_error continue is an error in the log.
        """
        if self._saved_step == self.state.global_step:
            return
        others = everyones((self.loader.position(), random_state()))
        optimizer = OptimizerState(self.optimizer, self.step, sharded=bool(self.args.sharding))
        problem = None
        if self.args.should_save:
            nbytes = self._checkpoint_bytes(optimizer)
            try:
                self._write_checkpoint(optimizer, others, nbytes)
            except OSError as error:
                name, folder = f"checkpoint-{self.state.global_step}", Path(self.args.output_dir)
                problem = explain(error, name, folder, nbytes)
        optimizer.drain()
        first_alone(lambda: None)
        problems = [found for found in everyones(problem) if found is not None]
        if not problems:
            self._saved_step = self.state.global_step
        elif self.args.on_save_error == "stop":
            raise OSError(f"{problems[0]} (--on_save_error continue trains on and tries again at the next save)")
        else:
            logger.error("%s; training goes on (--on_save_error continue)", problems[0])

    def _checkpoint_bytes(self, optimizer: OptimizerState) -> int:
        """What the large files take."""
        pipeline = 0 if self.args.only_save_updated_model else pipeline_bytes(self.bundle)
        return optimizer.nbytes + trained_bytes(self.bundle, self.step.train_text_encoder, self.ema) + pipeline

    def _write_checkpoint(self, optimizer: OptimizerState, others: Sequence[tuple], nbytes: int) -> None:
        """`others`: of each process, where it stands in its data and its random state. Raises OSError."""
        run, step, started = Path(self.args.output_dir), self.state.global_step, time.perf_counter()
        name = f"checkpoint-{step}"
        require_room(run, nbytes)
        with staged(run, name) as folder:
            written = {**optimizer.write(folder), **self._save(str(folder))}
            save_positions(folder, [position for position, _ in others])
            write_state(
                folder,
                step=step,
                schedule=self.lr_scheduler,
                scaler=self.scaler if self.do_grad_scaling else None,
                randoms=[state for _, state in others],
                flags=self.flags,
            )
            self.state.save_to_json(str(folder / "trainer_state.json"))
            publish(folder, run / name, step, written)
        rotate(run, step, self.args.save_total_limit)
        logger.info("%s: %.1f MB in %.1f s", name, nbytes / 1e6, time.perf_counter() - started)

    def _load_from_checkpoint(self, resume_from_checkpoint: Optional[str] = None) -> None:
        """The weights. The first process reads them, for all: the others may not see the folder."""
        if resume_from_checkpoint:
            folder, text = Path(resume_from_checkpoint), self.step.train_text_encoder
            from_first(lambda: check_architecture(folder, self.bundle, text))
            load_trained(folder, self.bundle, text, self.ema, SharedFile)

    def _load_optimizer_and_scheduler(self, checkpoint: Optional[str]) -> None:
        """With --ignore_load_lr_and_optim only the float32 weights of AMP O2."""
        if checkpoint:
            fresh = self.args.ignore_load_lr_and_optim
            load_optimizer(self.optimizer, self.step, SharedFile(Path(checkpoint) / OPTIMIZER), masters_only=fresh)
            if not fresh:
                self._load_run_state(Path(checkpoint))
        if self.ema is not None:
            self.ema.masters = wrappers(self.optimizer)[-1]._master_weights

    def _load_run_state(self, checkpoint: Path) -> None:
        state = from_first(lambda: read_state(checkpoint))
        self.lr_scheduler.set_state_dict(state["schedule"])
        if self.do_grad_scaling:
            load_scaler(self.scaler, state["scaler"])
        rank, randoms = self.args.process_index, state["random"]
        if rank < len(randoms):
            set_random_state(randoms[rank])
        else:
            logger.info("no random state of process %d was saved (only dropout uses it)", rank)

    def _visualdl(self) -> Any:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, VisualDLCallback):
                return callback.vdl_writer
        return None


class _Watched:
    """The loader with its waits timed and watched. Has a length only if the loader has."""

    def __init__(self, loader: Any, meter: Meter, watch: Watch) -> None:
        self.loader, self.meter, self.watch = loader, meter, watch

    def __iter__(self) -> Iterator[Any]:
        return self.meter.watch(self.watch.watched(self.loader, lambda: lane_in_turn(self.loader)))


def frozen_weights(bundle: Bundle) -> dict[str, paddle.Tensor]:
    """Copies in host memory, by paddle name, of what is not trained."""
    layers = (bundle.vae, bundle.text_encoder)
    return {p.name: p.detach().cpu().clone() for layer in layers for p in layer.parameters() if p.stop_gradient}


def learning_rate_ratios(args: SDTrainingArguments) -> dict[str, float]:
    """What to multiply `args.learning_rate` by for each part."""
    rates = {"unet": args.unet_learning_rate, "text_encoder": args.text_encoder_learning_rate}
    return {name: rate / args.learning_rate for name, rate in rates.items() if rate is not None and args.learning_rate}
