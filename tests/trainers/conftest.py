"""A tiny run: a random pipeline, part files, and the flags that train on them in a second or two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.models.saving import read_weights
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.parsing import parse_arguments
from ppsd.trainers.pretrain import pretrain
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import write_parts
from tests.tiny import UNET_CONFIG, tiny_pipeline_dir


@dataclass
class Run:
    """Where the inputs of a run are; `flags(output, ...)` names them on a command line."""

    pipeline: Path
    unet_config: Path
    file_list: Path

    def flags(self, output: Path, **changes: Any) -> list[str]:
        values = {
            "pretrained_model_name_or_path": self.pipeline,
            "unet_name_or_path": self.unet_config,
            "file_list": self.file_list,
            "output_dir": output,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "max_steps": 6,
            "logging_steps": 1,
            "save_steps": 3,
            "image_logging_steps": -1,
            "num_inference_steps": 2,
            "resolution": 64,
            "seed": 7,
            "disable_tqdm": True,
            "report_to": "none",
            **changes,
        }
        flags: list[str] = []
        for name, value in values.items():
            if value is not None:
                flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return flags

    def train(self, output: Path, **changes: Any) -> StableDiffusionTrainer:
        return pretrain(*parse(self.flags(output, **changes)))


def parse(flags: list[str]) -> tuple:
    return parse_arguments((ModelArguments, DataArguments, SDTrainingArguments), flags)


def losses(trainer: StableDiffusionTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(folder: Path, part: str = "unet") -> dict[str, np.ndarray]:
    files = [file for file in (folder / part).glob("*.safetensors") if ".ema" not in file.name]
    return read_weights(files[0])


def assert_same_weights(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    config = folder / "unet.json"
    config.write_text(json.dumps(UNET_CONFIG), encoding="utf-8")
    return Run(tiny_pipeline_dir(folder), config, write_parts(folder, [30, 30], 72, 80))
