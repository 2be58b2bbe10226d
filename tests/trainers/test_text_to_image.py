"""Full fine-tuning on a folder of images with captions, by the example script's trainer."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import jpeg_bytes
from tests.trainers.conftest import Run, assert_same_weights, losses, weights

ROOT = Path(__file__).parents[2]
PUBLIC = """--use_ema --resolution=64 --center_crop --random_flip --train_batch_size=2 --seed 5
--gradient_accumulation_steps=2 --gradient_checkpointing --mixed_precision=no --max_train_steps=2
--learning_rate=1e-05 --max_grad_norm=1 --lr_scheduler=constant --lr_warmup_steps=0
--image_column=image --caption_column=text --output_dir=sd-model --report_to=none"""
CAPTIONS = [f"a photo of circle {i}" for i in range(7)]


def images(folder: Path) -> Path:
    folder.mkdir()
    for i in range(7):
        (folder / f"{i}.jpg").write_bytes(jpeg_bytes(72 + 8 * i, 80, i))
    return folder


@pytest.fixture
def sidecars(tmp_path: Path) -> Path:
    folder = images(tmp_path / "sidecars")
    for i, caption in enumerate(CAPTIONS):
        (folder / f"{i}.txt").write_text(caption)
    return folder


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    folder = images(tmp_path / "metadata")
    rows = [json.dumps({"file_name": f"{i}.jpg", "text": caption}) + "\n" for i, caption in enumerate(CAPTIONS)]
    (folder / "metadata.jsonl").write_text("".join(rows))
    return folder


def fine_tune(run: Run, folder: Path, output: Path, **changes: Any) -> StableDiffusionTrainer:
    return run.train(output, file_list=None, unet_name_or_path=None, train_data_dir=folder, **changes)


def test_both_ways_of_captions_are_the_same_run(tiny_run: Run, sidecars: Path, metadata: Path, tmp_path: Path) -> None:
    a = fine_tune(tiny_run, sidecars, tmp_path / "a", caption_dropout_rate=0)
    b = fine_tune(tiny_run, metadata, tmp_path / "b", caption_dropout_rate=0)
    assert losses(a) == losses(b)
    assert len(set(losses(a))) == 6
    before = weights(tiny_run.pipeline)
    assert any(not np.array_equal(before[name], value) for name, value in weights(tmp_path / "a").items())


def test_an_epoch_is_the_folder(tiny_run: Run, metadata: Path, tmp_path: Path) -> None:
    trainer = fine_tune(tiny_run, metadata, tmp_path / "out", max_steps=None, num_train_epochs=3, dataset_repeats=2)
    assert trainer.state.global_step == 3 * math.ceil(2 * 7 / 4)


def test_a_killed_run_with_all_options_goes_on_as_if_never_killed(
    tiny_run: Run, metadata: Path, tmp_path: Path
) -> None:
    options = {"train_text_encoder": True, "use_ema": True, "snr_gamma": 5.0, "random_flip": True}
    whole = fine_tune(tiny_run, metadata, tmp_path / "a", **options)
    fine_tune(tiny_run, metadata, tmp_path / "b", **options)
    shutil.rmtree(tmp_path / "b" / "checkpoint-6")
    again = fine_tune(tiny_run, metadata, tmp_path / "b", **options)
    assert again.begun_at == 3
    assert losses(again) == losses(whole)
    for part in ("unet", "text_encoder"):
        assert_same_weights(weights(tmp_path / "a", part), weights(tmp_path / "b", part))
        before = weights(tiny_run.pipeline, part)
        assert any(not np.array_equal(before[name], value) for name, value in weights(tmp_path / "a", part).items())


def test_the_script_takes_a_command_of_the_public_one(tiny_run: Run, metadata: Path, tmp_path: Path) -> None:
    flags = [
        "--pretrained_model_name_or_path",
        str(tiny_run.pipeline),
        "--train_data_dir",
        str(metadata),
        *PUBLIC.split(),
    ]
    script = ROOT / "examples" / "text_to_image" / "train_text_to_image.py"
    done = subprocess.run(
        [sys.executable, str(script), *flags], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 2/2 loss" in done.stderr
    assert (tmp_path / "sd-model" / "model_index.json").is_file()
