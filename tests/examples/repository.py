"""A copy of the repository whose demos take seconds: recipes of a few steps, and tiny networks."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import paddle
import yaml
from ppdiffusers import UNet2DConditionModel

from ppsd.models.saving import save_component
from tests.tiny import UNET_CONFIG

ROOT = Path(__file__).parents[2]
UNET = {**UNET_CONFIG, "cross_attention_dim": 64}  # the demo's text encoder is that wide
QUICK = {
    "max_steps": 2,
    "save_steps": 50,
    "warmup_steps": 0,
    "image_logging_steps": 50,
    "num_inference_steps": 2,
    "per_device_train_batch_size": 2,
    "num_class_images": 3,
}


def copy_repository(folder: Path) -> Path:
    """`folder`, with what the demos need: code as it is, recipes and the demo's UNet made small, output/ empty."""
    for name in ("ppsd", "tools", "tests"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("examples", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    for recipe in (folder / "configs").glob("*/demo.yaml"):
        said = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        recipe.write_text(yaml.safe_dump({**said, **{key: QUICK[key] for key in said if key in QUICK}}))
    (folder / "configs" / "unet" / "tiny.json").write_text(json.dumps(UNET))
    return folder


def make_base(folder: Path) -> Path:
    """An untrained model where the first demo leaves its own, in the repository `folder`."""
    base = folder / "output" / "demo" / "run"
    shutil.copytree(folder / "examples" / "stable_diffusion" / "tiny_pipeline", base)
    paddle.seed(0)
    save_component(UNet2DConditionModel(**UNET), base / "unet")
    return base


def environment(**changes: str) -> dict[str, str]:
    """With this interpreter as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **changes}
