"""The part of the trainer that saves and loads: what is written when, by which process, and what is read back."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ppsd.compat import first_alone

import paddle
from paddlenlp.trainer import Trainer

from ppsd.adapters.network import AdapterNetwork
from ppsd.formats.safetensors_file import Digest
from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.models.saving import component_bytes
from ppsd.sampling.text import write_text_settings
from ppsd.trainers.adapter_export import warn_of_earlier, write_adapter
from ppsd.trainers.adapter_metadata import adapter_metadata
from ppsd.trainers.arguments import SDTrainingArguments
from ppsd.trainers.checkpoint import publish, rotate, staged
from ppsd.trainers.embeddings import learned_bytes, learned_rows, write_learned
from ppsd.trainers.exporting import exporting, pipeline_bytes, write_pipeline
from ppsd.trainers.manifest import read_manifest
from ppsd.trainers.optimizer_state import OPTIMIZER, OptimizerState, load_optimizer, wrappers
from ppsd.trainers.processes import SharedFile, everyones, from_first
from ppsd.trainers.run import Run
from ppsd.trainers.run_state import load_scaler, random_state, read_state, save_positions, set_random_state, write_state
from ppsd.trainers.save_errors import explain, require_room
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.trained import check_architecture, load_trained, save_trained, trained_bytes
from ppsd.trainers.watching import Watch

logger = logging.getLogger(__name__)


class CheckpointingTrainer(Trainer):
    """Replaces all of the base's reading and writing, which pickles and holds everything twice.

    flags: what checkpoints say the run was told; originals: float32 weights by paddle name that AMP O2 has rounded;
    begun_at: the step that this process goes on after; started: when it began, in seconds since 1970.
    """

    args: SDTrainingArguments
    run: Run
    bundle: Bundle
    step: DiffusionStep
    ema: Optional[EMA]
    loader: Any
    watch: Watch
    begun_at: int = 0
    started: float
    flags: Mapping[str, Any]
    originals: Mapping[str, paddle.Tensor]
    _saved_step: int = -1

    def load_to_export(self, checkpoint: str) -> None:
        """The weights of a finished run, in float32: AMP O2 has made the layers half precision, which rounds."""
        if self.args.should_save:
            check_architecture(Path(checkpoint), self.step.trained)
            for layer in self.step.trained.values():
                layer.to(dtype="float32")
            load_trained(Path(checkpoint), self.step.trained, self.ema)
            self.state.global_step = read_manifest(Path(checkpoint)).step  # for what is noted in a LoRA file

    def export(self) -> Path:
        """Write what the run is for to the output folder: `write_export`, with averages where there is an EMA.

        OSError where it cannot be written; an earlier one is then still there.
        """
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            nbytes = self.export_bytes()
            try:
                require_room(folder, nbytes)
                with exporting(folder) as staging:
                    names = {path.name for path in self.write_export(staging)}
            except OSError as error:
                raise OSError(explain(error, f"the {self.exported}", folder, nbytes)) from error
            logger.info("%s: %s", self.exported, folder)
            if self.bundle.adapter is not None:
                warn_of_earlier(folder, names)
        return folder

    @property
    def exports_pipeline(self) -> bool:
        """Whether `write_export` writes whole models."""
        return self.bundle.adapter is None

    @property
    def exported(self) -> str:
        """What `write_export` writes, in a word."""
        return "pipeline" if self.exports_pipeline else "LoRA"

    def write_export(self, folder: Path) -> dict[Path, Digest]:
        """The whole pipeline, or the adapters beside it; a method may have something else to give away."""
        adapter, masters = self.bundle.adapter, self._masters()
        if not isinstance(adapter, AdapterNetwork):
            return self._write_pipeline(folder, masters)
        metadata = adapter_metadata(self.run, self.bundle, self._prediction_type, self.state.global_step, self.started)
        written = write_adapter(folder, self.run.output_name, adapter, metadata, self.ema, masters)
        write_text_settings(folder, self.step.text)
        return {**written, **write_learned(folder, learned_rows(self.bundle, self.ema, masters))}

    def _write_pipeline(self, folder: Path, masters: Mapping[str, paddle.Tensor]) -> dict[Path, Digest]:
        kind, text = self._prediction_type, self.step.text
        return write_pipeline(folder, self.bundle, kind, averaged=self.ema, masters=masters, text=text)

    def export_bytes(self) -> int:
        """What `write_export` writes of weights."""
        adapter = self.bundle.adapter
        if not isinstance(adapter, AdapterNetwork):
            return pipeline_bytes(self.bundle)
        return 2 * component_bytes(adapter) + learned_bytes(self.bundle)

    @property
    def _prediction_type(self) -> str:
        return self.step.objective.prediction_type

    def _masters(self) -> Mapping[str, paddle.Tensor]:
        """Float32 weights by paddle name, where AMP O2 has rounded the layers' own: the optimizer's and the frozen."""
        trained = {} if self.optimizer is None else wrappers(self.optimizer)[-1]._master_weights
        return {**self.originals, **trained}

    @property
    def saved(self) -> Optional[str]:
        """The newest checkpoint that this process has seen saved."""
        return str(Path(self.args.output_dir, f"checkpoint-{self._saved_step}")) if self._saved_step >= 0 else None

    def _save(self, output_dir: Optional[str] = None, state_dict: Any = None, **kwargs: Any) -> dict[Path, Digest]:
        """The trained weights, and with --only_save_updated_model False the whole pipeline."""
        folder, masters = Path(output_dir or self.args.output_dir), self._masters()
        written = {}
        if not self.args.only_save_updated_model:
            written = self._write_pipeline(folder, masters)
        write_text_settings(folder, self.step.text)
        return {**written, **save_trained(folder, self.step.trained, self.ema, masters)}

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
        return optimizer.nbytes + trained_bytes(self.step.trained, self.ema) + pipeline

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
                unlogged=(self.watch.guard.loss_sum, self.watch.guard.loss_steps),
            )
            self.state.save_to_json(str(folder / "trainer_state.json"))
            publish(folder, run / name, step, written)
        rotate(run, step, self.args.save_total_limit)
        logger.info("%s: %.1f MB in %.1f s", name, nbytes / 1e6, time.perf_counter() - started)

    def _load_from_checkpoint(self, resume_from_checkpoint: Optional[str] = None) -> None:
        """The weights. The first process reads them, for all: the others may not see the folder."""
        if resume_from_checkpoint:
            folder, trained = Path(resume_from_checkpoint), self.step.trained
            from_first(lambda: check_architecture(folder, trained))
            load_trained(folder, trained, self.ema, SharedFile)

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
        self.begun_at = state["step"]
        self.watch.guard.loss_sum, self.watch.guard.loss_steps = state["unlogged"]
        self.lr_scheduler.set_state_dict(state["schedule"])
        self.lr_scheduler.last_lr = self.lr_scheduler.get_lr()  # by the flags of this run, should they differ
        if self.do_grad_scaling:
            load_scaler(self.scaler, state["scaler"])
        rank, randoms = self.args.process_index, state["random"]
        if rank < len(randoms):
            set_random_state(randoms[rank])
        else:
            logger.info("no random state of process %d was saved (only dropout uses it)", rank)
