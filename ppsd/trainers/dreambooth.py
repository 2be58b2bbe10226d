"""DreamBooth (arXiv 2208.12242): a few images of a subject, and images of its class that keep the class as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ppsd.data.config import StreamConfig
from ppsd.data.folders import folder_source
from ppsd.data.indexed import IndexedSource
from ppsd.formats.lines import NO_CAPTION
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments
from ppsd.trainers.arguments.folder import DEFAULT_LIST
from ppsd.trainers.building import stream_config
from ppsd.trainers.class_images import complete
from ppsd.trainers.run import Run
from ppsd.trainers.trainer import StableDiffusionTrainer

DEFAULTS: Mapping[str, Any] = {  # of diffusers' script
    "caption_dropout_rate": 0.0,
    "learning_rate": 5e-6,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.01,
    "per_device_train_batch_size": 4,
}


class DreamBoothTrainer(StableDiffusionTrainer):
    """The loss is diffusers': mean(instance) + prior_loss_weight * mean(class), over batches of as many of each.

    Here it is a weight of the data, mean(weight * loss) with weights 2 and 2 * prior_loss_weight over both, so what
    changes a sample's loss (Min-SNR) changes it for both.
    """

    own_arguments = DreamBoothArguments
    defaults: Mapping[str, Any] = DEFAULTS

    @classmethod
    def check(cls, run: Run) -> None:
        own, data, args = run.own, run.data, run.args
        own.check(str(args.device))
        for name in ("file_list", "train_data_dir", "dataset_name"):
            if getattr(data, name) not in (None, DEFAULT_LIST):
                raise ValueError(f"--{name}: DreamBooth reads --instance_data_dir and --class_data_dir; leave it out")
        if data.data_format not in ("auto", "image_folder"):
            raise ValueError(f"--data_format {data.data_format} is for --file_list; DreamBooth reads folders of images")
        batches = args.gradient_accumulation_steps * args.dataset_world_size
        if own.with_prior_preservation and data.enable_bucket and batches % 2:
            raise ValueError(
                "--enable_bucket with --with_prior_preservation: instance and class images then take turns by whole"
                " batches, and a step must have as many of each: --gradient_accumulation_steps x devices must be even,"
                f" not {batches}"
            )

    @classmethod
    def prepare(cls, run: Run) -> None:
        if run.own.with_prior_preservation:
            _instance(run, stream_config(cls, run))  # raises what can be mended before much is drawn
            complete(Path(run.own.class_data_dir), run, run.own, cls.concat_channels)

    @classmethod
    def data_config(cls, run: Run, config: StreamConfig) -> StreamConfig:
        return replace(config, alternate=run.own.with_prior_preservation)

    @classmethod
    def open_data(cls, run: Run, config: StreamConfig) -> list[Any]:
        own, instance = run.own, _instance(run, config)
        if not own.with_prior_preservation:
            return [instance]
        shown = _images("class", run, replace(config, max_train_samples=own.num_class_images, dataset_repeats=1))
        return [replace(instance, loss_weight=2.0), replace(shown, loss_weight=2.0 * own.prior_loss_weight)]

    @classmethod
    def batch_size(cls, run: Run) -> int:
        """per_device_train_batch_size counts instance images, as diffusers' train_batch_size."""
        return run.args.per_device_train_batch_size * (2 if run.own.with_prior_preservation else 1)


def _instance(run: Run, config: StreamConfig) -> IndexedSource:
    """Raises ValueError, naming the flag, for images that cannot be used or have no caption."""
    try:
        instance = _images("instance", run, config)
    except ValueError as error:
        if run.own.instance_prompt is None and NO_CAPTION in str(error):
            raise ValueError(f"--instance_prompt is needed where images have no caption; {error}") from error
        raise
    bare = [where for where, bad in instance.bad if bad.reason == NO_CAPTION]
    if bare:
        raise ValueError(f"--instance_prompt is needed where images have no caption, as {bare[0]}")
    return instance


def _images(kind: str, run: Run, config: StreamConfig) -> IndexedSource:
    """kind: instance or class."""
    flag, caption = f"{kind}_data_dir", getattr(run.own, f"{kind}_prompt")
    return folder_source(getattr(run.own, flag), config, flag=flag, caption=caption, seed=run.args.seed)
