"""Methods that train on images with captions, or on those of one subject as DreamBooth does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppsd.data.config import StreamConfig
from ppsd.data.source import open_sources
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments
from ppsd.trainers.arguments.folder import DEFAULT_LIST
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.run import Run


class AnyDataTrainer(DreamBoothTrainer):
    """With --instance_data_dir it reads what DreamBooth reads, else what text-to-image training does.

    Its `own_arguments` have the fields of DreamBoothArguments.
    """

    @classmethod
    def check(cls, run: Run) -> None:
        if run.own.instance_data_dir is not None:
            return super().check(run)
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
    def open_data(cls, run: Run, config: StreamConfig) -> list[Any]:
        if run.own.instance_data_dir is not None:
            return super().open_data(run, config)
        return list(open_sources(config, run.args.seed))
