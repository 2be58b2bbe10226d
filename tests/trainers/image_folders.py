"""Runs on a folder of tiny images with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import jpeg_bytes
from tests.trainers.conftest import Run

EPOCHS = {"caption_dropout_rate": 0.4, "num_train_epochs": 2, "max_steps": None, "save_steps": 4}
DISK = {"cache_latents_to_disk": True}


def write_folder(folder: Path, sizes: Sequence[tuple[int, int]], first: int = 0) -> Path:
    """Image NN.jpg has the caption `set 0 N`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (width, height) in enumerate(sizes, first):
        (folder / f"{number:02d}.jpg").write_bytes(jpeg_bytes(width, height, seed=number))
        (folder / f"{number:02d}.txt").write_text(f"set 0 {number}")
    return folder


@dataclass
class FolderRun:
    """A tiny run on the images of a folder."""

    run: Run
    path: Path

    def flags(self, output: Path, **changes: Any) -> list[str]:
        given = {"file_list": None, "train_data_dir": self.path, "check_data": "off", **EPOCHS, **changes}
        return self.run.flags(output, **given)

    def train(self, output: Path, **changes: Any) -> StableDiffusionTrainer:
        given = {"file_list": None, "train_data_dir": self.path, "check_data": "off", **EPOCHS, **changes}
        return self.run.train(output, **given)


def files(output: Path, name: str = "latents") -> list[Path]:
    """The cached arrays in an output folder."""
    return sorted((output / "cache" / name).glob("*/*.safetensors"))
