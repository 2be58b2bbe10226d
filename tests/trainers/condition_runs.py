"""Tiny runs of ControlNets, inpainting and depth models on a folder of scenes with all that these need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppsd.trainers.building import build_bundle
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.running import train
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.data.scenes import write_scenes
from tests.trainers.conftest import Run

Method = type[StableDiffusionTrainer]
NARROW = {"conditioning_embedding_out_channels": [4, 4, 8, 8]}
"""The layers that see the picture take most of a tiny ControlNet's time."""


def scenes(folder: Path, count: int = 12, **columns: Any) -> Path:
    columns = columns or dict.fromkeys(("conditioning_image", "mask", "depth"), "c/{n}.png")
    return write_scenes(folder, count, **columns)


def flags_of(run: Run, output: Path, folder: Path, **changes: Any) -> list[str]:
    given = {"unet_name_or_path": None, "file_list": None, "train_data_dir": folder, "check_data": "off", **changes}
    return run.flags(output, **given)


def learn(run: Run, output: Path, method: Method, folder: Path, **changes: Any) -> StableDiffusionTrainer:
    flags = flags_of(run, output, folder, **changes)
    return train(method, parse_run(method.own_arguments, flags, method.defaults))


def built(run: Run, output: Path, method: Method, folder: Path, **changes: Any) -> StableDiffusionTrainer:
    """All that comes before the first step."""
    return learn(run, output, method, folder, do_train=False, **changes)


def first_batch(trainer: StableDiffusionTrainer) -> dict[str, Any]:
    batch = next(iter(trainer.make_loader(None)))
    return {name: paddle.to_tensor(value) if name != "seed" else value for name, value in batch.items()}


def base_unet(trainer: StableDiffusionTrainer) -> dict[str, np.ndarray]:
    """As the run has found it."""
    state = build_bundle(trainer.run, trainer.concat_channels).unet.state_dict()
    return {name: value.numpy() for name, value in state.items()}


def unet(trainer: StableDiffusionTrainer) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in trainer.bundle.unet.state_dict().items()}
