"""The recipes of adapters.py and of the LoRA demo are small enough for what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppsd.models.bundle import Bundle, load_bundle
from ppsd.trainers.adapter import add_adapter
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.benchmarks import dreambooth_subject, fine_tune_style
from tests.benchmarks.adapters import ROWS, SHARE, STYLE, SUBJECT

ROOT = Path(__file__).parents[2]
NOWHERE = Path("nowhere")


def bundle() -> Bundle:
    """The demo's networks, untrained."""
    pipeline = ROOT / "examples" / "stable_diffusion" / "tiny_pipeline"
    return load_bundle(str(pipeline), unet=str(ROOT / "configs" / "unet" / "tiny.json"))


def share(method: type, words: list[str], parts: list[str]) -> float:
    """Of the models' parameters that the flags train."""
    run = parse_run(method.own_arguments, ["--output_dir", "nowhere", "--resolution", "64", *words], method.defaults)  # type: ignore[attr-defined]
    run.check()
    models = bundle()
    adapters = add_adapter(run, models)
    whole = sum(int(p.size) for part in parts for p in getattr(models, part).parameters())
    return sum(int(p.size) for p in adapters.parameters()) / whole


@pytest.mark.parametrize("row", [row for row in ROWS if row != "full"])
def test_rows_train_few_parameters(row: str) -> None:
    style = fine_tune_style.flags(NOWHERE, NOWHERE, 1, 1e-3) + ROWS[row][STYLE].split()
    assert 0.01 < share(StableDiffusionTrainer, style, ["unet"]) < SHARE
    subject = dreambooth_subject.flags(NOWHERE, NOWHERE, 1, 1e-3) + ROWS[row][SUBJECT].split()
    assert 0.01 < share(DreamBoothTrainer, subject, ["unet", "text_encoder"]) < SHARE


def test_the_demo_trains_few_parameters() -> None:
    words = ["--config", str(ROOT / "configs" / "lora" / "demo.yaml"), "--train_data_dir", "nowhere"]
    words += ["--pretrained_model_name_or_path", "nowhere"]
    assert 0.01 < share(LoRATrainer, words, ["unet"]) < SHARE
