"""What a way of training says of its own. Each has a default, which is text-to-image training of the UNet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

import paddle
from paddle import nn

from ppsd.data.config import StreamConfig
from ppsd.data.source import open_sources
from ppsd.diffusion.draws import Draws
from ppsd.diffusion.objective import Denoise
from ppsd.models.bundle import Bundle
from ppsd.models.denoiser import PlainDenoiser
from ppsd.models.placeholder import add_placeholders
from ppsd.sampling.conditioned import Told
from ppsd.sampling.prompts import Prompt
from ppsd.trainers.adapter import add_adapter
from ppsd.trainers.preview_conditions import Files, pair, read_files
from ppsd.trainers.run import Run
from ppsd.types import Condition


class Method:
    """The hooks of a training run, in the order in which ppsd.trainers.running calls them. All processes do.

    Beside these a method may override `write_export` (what is given away in the end) and any method of the Trainer.
    """

    own_arguments: Optional[type] = None
    """A dataclass of the method's own flags; `run.own` then is one."""

    defaults: Mapping[str, Any] = {}
    """Defaults of common flags that are the method's, by name; those of the argument dataclasses hold for the rest."""

    conditions: tuple[str, ...] = ()
    """What a sample has beside its picture (see ppsd.data.conditions)."""

    preview_conditions: tuple[str, ...] = ()
    """What a preview is told beside its prompt, by the names of a batch."""

    concat_channels: int = 0
    """Channels that the UNet is given beside the latents'; one without them gets them (see ppsd.models.widening)."""

    needs_pixels: bool = False
    """Whether cached latents are not enough."""

    @classmethod
    def check(cls, run: Run) -> None:
        """Raise ValueError, naming the flag, for values that cannot work; run.check() has looked at the common ones."""

    @classmethod
    def prepare(cls, run: Run) -> None:
        """Make what the data needs before it is opened."""

    @classmethod
    def data_config(cls, run: Run, config: StreamConfig) -> StreamConfig:
        """What the stream is told; `config` is what the flags say."""
        return config

    @classmethod
    def open_data(cls, run: Run, config: StreamConfig) -> list[Any]:
        """The sources of records."""
        return list(open_sources(config, run.args.seed))

    @classmethod
    def batch_size(cls, run: Run) -> int:
        """Samples that a device sees at a time."""
        return run.args.per_device_train_batch_size

    @classmethod
    def trained_names(cls, run: Run) -> tuple[str, ...]:
        """Names of the layers of the bundle that are trained; the first is what an EMA averages."""
        model = run.model
        if model.network_module:
            return ("adapter", *(["embeddings"] if model.placeholder_token else []))
        asked = {"text_encoder": model.train_text_encoder, "embeddings": bool(model.placeholder_token)}
        return ("unet", *(name for name, trained in asked.items() if trained))

    @classmethod
    def adapt(cls, run: Run, bundle: Bundle) -> None:
        """Add to the models what is to be trained; here, what any method may have: new tokens (--placeholder_token)
        and adapters (--network_module).

        A method that adds something else calls this one, too, before.
        """
        if run.model.placeholder_token:
            add_placeholders(bundle, run.model.placeholders(), run.args.seed)
        if run.model.network_module:
            bundle.adapter = add_adapter(run, bundle)

    @classmethod
    def trained_layers(cls, run: Run, bundle: Bundle) -> dict[str, nn.Layer]:
        """The layers of `trained_names`, which checkpoints hold."""
        return {name: getattr(bundle, name) for name in cls.trained_names(run)}

    @classmethod
    def learning_layers(cls, run: Run, bundle: Bundle) -> Iterable[nn.Layer]:
        """Those of `trained_layers`, or parts of them, whose parameters change."""
        return cls.trained_layers(run, bundle).values()

    @classmethod
    def validation_files(cls, run: Run) -> list[Files]:
        """What flags name for previews beside prompts; what is read by the first is what the others must fit."""
        return []

    @classmethod
    def preview_files(cls, run: Run) -> tuple[list[Prompt], Optional[Told]]:
        """The prompts of previews and what goes with them, of the flags. Raises ValueError naming these."""
        prompts, files = pair(run.args.prompts(), cls.validation_files(run))
        return prompts, read_files(files, run.args.resolution) if files else None

    @classmethod
    def denoiser(cls, run: Run, bundle: Bundle) -> Denoise:
        """What predicts the noise."""
        return PlainDenoiser(bundle.unet)

    @staticmethod
    def told(condition: Condition, bundle: Bundle, draws: Draws, batch: Mapping[str, paddle.Tensor]) -> Condition:
        """`condition` with what the denoiser is told beside the caption. batch: `conditions` by name, and pixels."""
        return condition
