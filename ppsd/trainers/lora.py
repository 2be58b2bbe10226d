"""LoRA and its relatives, on any data: the same as any method with --network_module, which here is lora by default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppsd.data.config import StreamConfig
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments
from ppsd.trainers.arguments.folder import DEFAULT_LIST
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.run import Run
from ppsd.trainers.trainer import StableDiffusionTrainer


class LoRATrainer(StableDiffusionTrainer):
    """With --instance_data_dir it reads what DreamBooth reads, else what text-to-image training does."""

    own_arguments = DreamBoothArguments
    defaults: Mapping[str, Any] = {
        "network_module": "lora",
        "caption_dropout_rate": 0.0,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
    }

    @classmethod
    def check(cls, run: Run) -> None:
        if run.model.network_module is None:
            raise ValueError("--network_module is needed: lora, locon, loha or lokr")
        if run.own.instance_data_dir is not None:
            return DreamBoothTrainer.check(run)
        data = run.data
        if data.file_list == DEFAULT_LIST and not (
            data.train_data_dir or data.dataset_name or Path(DEFAULT_LIST).exists()
        ):
            raise ValueError(
                "nothing to train on: give --train_data_dir, --instance_data_dir, --dataset_name or --file_list"
            )
        for name, default in vars(DreamBoothArguments()).items():
            if getattr(run.own, name) != default:
                raise ValueError(f"--{name} is of DreamBooth: give --instance_data_dir, or leave it out")

    @classmethod
    def prepare(cls, run: Run) -> None:
        _reader(run).prepare(run)

    @classmethod
    def data_config(cls, run: Run, config: StreamConfig) -> StreamConfig:
        return _reader(run).data_config(run, config)

    @classmethod
    def open_data(cls, run: Run, config: StreamConfig) -> list[Any]:
        return _reader(run).open_data(run, config)

    @classmethod
    def batch_size(cls, run: Run) -> int:
        return _reader(run).batch_size(run)


def _reader(run: Run) -> type[StableDiffusionTrainer]:
    """The method whose data it is."""
    return StableDiffusionTrainer if run.own.instance_data_dir is None else DreamBoothTrainer
