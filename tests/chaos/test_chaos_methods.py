"""Each method, killed three times."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest

from tests.chaos.campaign import campaign
from tests.chaos.moments import Pace
from tests.chaos.outcome import num_kills
from tests.chaos.recipe import Recipe
from tests.chaos.runners import Zygote
from tests.data.scenes import write_scenes
from tests.images import jpeg_bytes

KINDS = ["forward", "backward", "write"]


def write_images(folder: Path, count: int, first: int = 0) -> Path:
    """Of several sizes, with captions beside them."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(jpeg_bytes(72 + 40 * (number % 2), 80, first + number))
        (folder / f"{number}.txt").write_text(f"a photo of a red circle {number}")
    return folder


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        (
            "ppsd.trainers.trainer:StableDiffusionTrainer",
            {"train_data_dir": "photos", "enable_bucket": True, "bucket_reso_steps": 8, "min_bucket_reso": 32},
        ),
        (
            "ppsd.trainers.dreambooth:DreamBoothTrainer",
            {
                "instance_data_dir": "photos",
                "with_prior_preservation": True,
                "class_data_dir": "others",
                "class_prompt": "a circle",
                "num_class_images": 9,
                "train_text_encoder": True,
            },
        ),
        (
            "ppsd.trainers.textual_inversion:TextualInversionTrainer",
            {
                "train_data_dir": "photos",
                "placeholder_token": "<toy>",
                "initializer_token": "red",
                "num_vectors": 2,
                "unet_name_or_path": None,
            },
        ),
        (
            "ppsd.trainers.lora:LoRATrainer",
            {
                "train_data_dir": "photos",
                "train_text_encoder": True,
                "network_dim": 2,
                "network_dropout": 0.2,
                "rank_dropout": 0.2,
                "module_dropout": 0.2,
                "unet_name_or_path": None,
            },
        ),
        (
            "ppsd.trainers.controlnet:ControlNetTrainer",
            {
                "train_data_dir": "scenes",
                "conditioning_embedding_out_channels": [4, 4, 8, 8],
                "sd_locked": False,
                "proportion_empty_prompts": 0.5,
                "unet_name_or_path": None,
            },
        ),
        ("ppsd.trainers.inpainting:InpaintingTrainer", {"train_data_dir": "photos", "unet_name_or_path": None}),
        ("ppsd.trainers.depth:DepthTrainer", {"train_data_dir": "scenes", "unet_name_or_path": None}),
    ],
    ids=["fine-tuning", "dreambooth", "textual inversion", "adapters", "controlnet", "inpainting", "depth"],
)
def test_each_method_goes_on_as_if_never_killed(
    method: str,
    flags: Mapping[str, object],
    zygote: Zygote,
    recipe: Recipe,
    tmp_path: Path,
    show: Callable[[list[str]], None],
) -> None:
    folders = {"photos": write_images(tmp_path / "photos", 7), "others": write_images(tmp_path / "others", 9, 100)}
    folders["scenes"] = write_scenes(tmp_path / "scenes", 7, conditioning_image="c/{n}.png", depth="c/{n}.png")
    more = {name: folders.get(value, value) if isinstance(value, str) else value for name, value in flags.items()}
    of_method = replace(
        recipe,
        method=method,
        records_per_part=None,
        max_steps=12,
        save_steps=2,
        micro_batch=2,
        more={"file_list": None, **more},
    )
    outcomes, table = campaign(zygote, of_method, tmp_path, random.Random(3), KINDS, 3, Pace(4, 2, 2))
    show(table)
    assert num_kills(outcomes) == 3
