"""A committed loss curve guards the whole path: part files, order, crops, tokens, noise, loss, optimizer.

After a wanted change: python -m tests.trainers.test_loss_curve   writes it anew (look at the difference).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import write_parts
from tests.tiny import UNET_CONFIG, tiny_pipeline_dir
from tests.trainers.conftest import Run, losses

CURVE = Path(__file__).parents[1] / "fixtures" / "loss_curves" / "pretrain.json"
OPTIONS = {
    "max_steps": 12,
    "save_strategy": "no",
    "train_text_encoder": True,
    "snr_gamma": 5.0,
    "noise_offset": 0.05,
    "learning_rate": 3e-3,
}


def test_the_loss_curve_is_the_committed_one(tiny_run: Run, tmp_path: Path) -> None:
    expected = json.loads(CURVE.read_text(encoding="utf-8"))
    np.testing.assert_allclose(losses(train(tiny_run, tmp_path)), expected, rtol=1e-4)


def train(run: Run, output: Path) -> StableDiffusionTrainer:
    """From a UNet that puts out something: captions, crops and the text encoder all count from the first step on."""
    return run.train(output, unet_name_or_path=run.pipeline / "unet", **OPTIONS)


def write_curve(folder: Path) -> None:
    (folder / "unet.json").write_text(json.dumps(UNET_CONFIG), encoding="utf-8")
    run = Run(tiny_pipeline_dir(folder), folder / "unet.json", write_parts(folder, [30, 30], 72, 80))
    CURVE.write_text(json.dumps(losses(train(run, folder / "out"))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        write_curve(Path(name))
