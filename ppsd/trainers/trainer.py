"""The paddlenlp Trainer, with what is Stable Diffusion's own: the data stream, the loss, what is saved and loaded."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

import paddle
from paddle.optimizer import AdamW
from paddlenlp.trainer import PrinterCallback, Trainer
from paddlenlp.trainer.integrations import VisualDLCallback
from paddlenlp.trainer.trainer import DEFAULT_PROGRESS_CALLBACK

from ppsd.diffusion.draws import draw
from ppsd.diffusion.objective import reduce
from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.trainers.arguments import SDTrainingArguments
from ppsd.trainers.callbacks import EMACallback, LastStepCallback, PreviewCallback, ProgressCallback
from ppsd.trainers.checkpoint import (
    STAGING,
    discard,
    export_pipeline,
    find_checkpoints,
    load_positions,
    load_trained,
    publish,
    save_positions,
    save_trained,
)
from ppsd.trainers.meter import Meter
from ppsd.trainers.optimizer import PortableAdamW, trained_parameters, undecayed
from ppsd.trainers.step import DiffusionStep

logger = logging.getLogger(__name__)


class StableDiffusionTrainer(Trainer):
    """`make_loader(positions)` gives the batches, from the start (None) or from where saved positions say.

    cached: they are of latents that were checked against the bundle (ppsd.trainers.cached_data).
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
    ) -> None:
        self.bundle, self.make_loader, self.cached = bundle, make_loader, cached
        self.noise = {"noise_offset": noise_offset, "input_perturbation": input_perturbation}
        self.ema = EMA(bundle.unet, args.ema_decay) if args.use_ema else None
        self.meter = Meter()
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
        )
        for default in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
            self.remove_callback(default)
        self.add_callback(ProgressCallback(bar=not args.disable_tqdm))
        if self.ema is not None:
            self.add_callback(EMACallback(self.ema))
        self.add_callback(self.previews)
        self.add_callback(LastStepCallback)

    def get_train_dataloader(self) -> Any:
        positions = None
        if self._checkpoint and not self.args.restart_data:
            first = self.args.process_index == 0
            positions = everyones(load_positions(Path(self._checkpoint)) if first else None)[0]
        self.loader = self.make_loader(positions)
        return _Watched(self.loader, self.meter)

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
            clip = paddle.nn.ClipGradByGlobalNorm(self.args.max_grad_norm) if self.args.max_grad_norm > 0 else None
            # sharding picks its part of a saved state by Paddle's names
            adamw = AdamW if self.args.sharding else partial(PortableAdamW, self.step)
            self.optimizer = adamw(
                learning_rate=self.lr_scheduler if lr_scheduler is None else lr_scheduler,
                parameters=trained_parameters(self.step, learning_rate_ratios(self.args)),
                apply_decay_param_fun=lambda name: name not in kept,
                weight_decay=self.args.weight_decay,
                grad_clip=clip,
                multi_precision=self.args.fp16_opt_level == "O2",
                **kwargs,
            )
        return self.optimizer

    def train(self, resume_from_checkpoint: Optional[str] = None, **kwargs: Any) -> Any:
        self._checkpoint = resume_from_checkpoint
        done = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        tally = self.loader.tally
        logger.log(logging.WARNING if tally.unexpected else logging.INFO, "data of this run: %s", tally)
        self.loader.close()
        return done

    def log(self, logs: dict[str, float], **kwargs: Any) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise ValueError(
                f"the loss is {logs['loss']} at step {self.state.global_step}; lower --learning_rate, or continue "
                f"from an earlier checkpoint of {self.args.output_dir}"
            )
        logs.update(self.meter.read())
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
        """Write the pipeline (with the averaged UNet where there is an EMA) to the output folder."""
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            self._export_to(folder)
            logger.info("pipeline: %s", folder)
        return folder

    def _export_to(self, folder: Path) -> None:
        prediction_type = self.step.objective.prediction_type
        export_pipeline(folder, self.bundle, prediction_type, averaged=self.ema, masters=self._masters())

    def _masters(self) -> Mapping[str, paddle.Tensor]:
        """Float32 weights by paddle name, where AMP O2 has rounded the layers' own: the optimizer's and the frozen."""
        return {**self.originals, **getattr(self.optimizer, "_master_weights", {})}

    def _save(self, output_dir: Optional[str] = None, state_dict: Any = None, **kwargs: Any) -> None:
        folder = Path(output_dir or self.args.output_dir)
        logger.info("saving the trained weights of step %d", self.state.global_step)
        if not self.args.only_save_updated_model:
            self._export_to(folder)
        save_trained(folder, self.bundle, self.step.train_text_encoder, self.ema, self._masters())

    def _save_checkpoint(self, model: Any, metrics: Any = None) -> None:
        """As the base does, but in a folder aside that takes its name when it is whole."""
        if self._saved_step == self.state.global_step:
            return
        run = self.args.output_dir
        name = f"checkpoint-{self.state.global_step}"
        staging = Path(run, STAGING)
        positions = everyones(self.loader.position())
        if self.args.should_save:
            save_positions(staging / name, positions)
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, metrics)
        finally:
            self.args.output_dir = run
        if self.args.world_size > 1:
            paddle.distributed.barrier()
        if self.is_local_process_zero():
            publish(staging / name, Path(run, name))
            with suppress(OSError):  # another process may still be writing there
                staging.rmdir()
            self._rotate_checkpoints(output_dir=run)
        self._saved_step = self.state.global_step

    def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: Any = None) -> None:
        """Only the newest `save_total_limit` stay."""
        limit = self.args.save_total_limit or 0
        for old in find_checkpoints(Path(output_dir))[:-limit] if limit > 0 else []:
            discard(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: Optional[str] = None) -> None:
        """Processes that do not see the folder get the weights from the first one, when paddle wraps the model."""
        if resume_from_checkpoint and (self.args.process_index == 0 or Path(resume_from_checkpoint).is_dir()):
            load_trained(Path(resume_from_checkpoint), self.bundle, self.step.train_text_encoder, self.ema)

    def _load_optimizer_and_scheduler(self, checkpoint: Optional[str]) -> None:
        if checkpoint and not self.args.sharding and list(Path(checkpoint).glob("optimizer.shard*")):
            raise ValueError(f"{checkpoint} was saved with --sharding; continue it with the same --sharding")
        super()._load_optimizer_and_scheduler(checkpoint)
        try:
            self._load_rng_state(checkpoint)  # the base restores it only after draining batches
        except ValueError as error:
            logger.warning("random states of other devices are not restored (only dropout uses them): %s", error)
        if self.ema is not None:
            self.ema.masters = getattr(self.optimizer, "_master_weights", {})

    def _visualdl(self) -> Any:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, VisualDLCallback):
                return callback.vdl_writer
        return None


class _Watched:
    """The loader with its waits timed. Has a length only if the loader has."""

    def __init__(self, loader: Any, meter: Meter) -> None:
        self.loader, self.meter = loader, meter

    def __iter__(self) -> Iterator[Any]:
        return self.meter.watch(self.loader)


def frozen_weights(bundle: Bundle) -> dict[str, paddle.Tensor]:
    """Copies in host memory, by paddle name, of what is not trained."""
    layers = (bundle.vae, bundle.text_encoder)
    return {p.name: p.detach().cpu().clone() for layer in layers for p in layer.parameters() if p.stop_gradient}


def everyones(value: Any) -> list[Any]:
    """What each process passes, by rank."""
    if paddle.distributed.get_world_size() == 1:
        return [value]
    values: list[Any] = []
    paddle.distributed.all_gather_object(values, value)
    return values


def learning_rate_ratios(args: SDTrainingArguments) -> dict[str, float]:
    """What to multiply `args.learning_rate` by for each part."""
    rates = {"unet": args.unet_learning_rate, "text_encoder": args.text_encoder_learning_rate}
    return {name: rate / args.learning_rate for name, rate in rates.items() if rate is not None and args.learning_rate}
