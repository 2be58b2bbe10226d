"""Textual inversion (arXiv 2208.01618): nothing is trained but the embeddings of new tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from ppsd.data.captioner import Captioner, captioned
from ppsd.data.config import StreamConfig
from ppsd.data.folders import dataset_source, folder_source
from ppsd.data.source import Source, open_streams
from ppsd.data.templates import TEMPLATES, read_templates
from ppsd.formats.safetensors_file import Digest
from ppsd.trainers.arguments.flag import flag
from ppsd.trainers.embeddings import learned_bytes, learned_rows, write_learned
from ppsd.trainers.run import Run
from ppsd.trainers.trainer import StableDiffusionTrainer


@dataclass
class TextualInversionArguments:
    """Flags of textual inversion alone; those of the tokens are every method's."""

    learnable_property: str = flag("object", "What the token names: object, or style. It chooses the captions.")
    template_file: Optional[str] = flag(
        None, "Captions of your own instead, one a line, with {} (or [name]) where the token goes."
    )
    save_as_full_pipeline: bool = flag(False, "Export the whole pipeline with the new tokens, too.")

    def templates(self) -> Sequence[str]:
        """Captions with {}. Raises ValueError naming the flag."""
        if self.template_file is not None:
            return read_templates(self.template_file, "template_file")
        if self.learnable_property not in TEMPLATES:
            known = " or ".join(TEMPLATES)
            raise ValueError(f"--learnable_property is {self.learnable_property}; it must be {known}")
        return TEMPLATES[self.learnable_property]


class TextualInversionTrainer(StableDiffusionTrainer):
    """Captions are the templates, filled with the tokens, or an image's own where these have a token."""

    own_arguments = TextualInversionArguments
    defaults: Mapping[str, Any] = {"caption_dropout_rate": 0.0, "learning_rate": 5e-4, "lr_scheduler_type": "constant"}
    exported = "learned embeddings"

    @classmethod
    def check(cls, run: Run) -> None:
        run.own.templates()
        if not run.model.placeholder_token:
            raise ValueError("--placeholder_token is missing: the new token to learn, e.g. '<toy>'")
        if run.model.network_module:
            raise ValueError(
                "--network_module: textual inversion trains new tokens only; give --placeholder_token to train_lora.py"
            )
        if run.model.train_text_encoder:
            raise ValueError(
                "--train_text_encoder: textual inversion trains new tokens only; to train other weights as well, give"
                " --placeholder_token to the script of that method"
            )
        if run.model.train_text_encoder_ti_frac < 1:
            raise ValueError("--train_text_encoder_ti_frac: nothing else is trained here; lower --max_steps")
        args = run.args
        if {args.unet_learning_rate, args.text_encoder_learning_rate} != {args.asked_learning_rate}:
            raise ValueError("--unet_learning_rate, --text_encoder_learning_rate: not trained; give --learning_rate")
        if run.data.caption_rule not in ("first", "random"):
            raise ValueError(f"--caption_rule {run.data.caption_rule}: one of the templates is chosen at random")
        if run.model.embedding_learning_rate:
            run.args.learning_rate = run.model.embedding_learning_rate  # which is what the log shows

    @classmethod
    def data_config(cls, run: Run, config: StreamConfig) -> StreamConfig:
        return replace(config, caption_rule="random")

    @classmethod
    def open_data(cls, run: Run, config: StreamConfig) -> list[Any]:
        sources: list[Source]
        if config.train_data_dir is not None:
            sources = [folder_source(config.train_data_dir, config, caption="", seed=run.args.seed)]
        elif config.dataset_name is not None:
            sources = [dataset_source(config.dataset_name, config, caption="", seed=run.args.seed)]
        else:
            sources = list(open_streams(config))
        captioner = Captioner(tuple(run.model.placeholder_token or ()), run.own.templates())
        return [captioned(source, captioner) for source in sources]

    @classmethod
    def trained_names(cls, run: Run) -> tuple[str, ...]:
        return ("embeddings",)

    def write_export(self, folder: Path) -> dict[Path, Digest]:
        if self.run.own.save_as_full_pipeline:
            return super().write_export(folder)
        return write_learned(folder, learned_rows(self.bundle, self.ema, self._masters()))

    def export_bytes(self) -> int:
        return super().export_bytes() if self.run.own.save_as_full_pipeline else learned_bytes(self.bundle)
