"""How fast each adapter learns: by its part, its place in the UNet, and its factor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ppsd.adapters.places import Place
from ppsd.models.bundle import Bundle
from ppsd.trainers.adapter import block_weight, check_block_weights
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.run import Run as Flags
from tests.trainers.adapter_runs import PLAIN_ADAM, built, factors, learn, places
from tests.trainers.conftest import Run

DOWN, UP = "lora_down.weight", "lora_up.weight"
ADAM_AT_STEP_TWO = 0.1 / (1 - 0.9**2) / (0.001 / (1 - 0.999**2)) ** 0.5
"""Of the learning rate: the step of a weight whose first gradient was 0."""


def moved(run: Run, output: Path, steps: int, **changes: Any) -> dict[tuple[Place, str], float]:
    """The median of how far the values of each factor have come."""
    before = factors(built(run, output / "before", **changes))
    trainer = learn(run, output, max_steps=steps, lr_scheduler_type="constant", **PLAIN_ADAM, **changes)
    after = factors(trainer)
    return {key: float(np.median(np.abs(value - before[key]))) for key, value in after.items() if key[1] != "alpha"}


def rates(found: dict[tuple[Place, str], float], leaf: str, part: str = "unet") -> list[float]:
    return [value for (place, name), value in found.items() if name == leaf and place.part == part]


def test_the_unet_and_the_text_encoder_each_have_their_own(tiny_run: Run, tmp_path: Path) -> None:
    """Under kohya's names; in the first step the ups alone have a gradient."""
    found = moved(tiny_run, tmp_path, 1, train_text_encoder=True, unet_lr=1e-3, text_encoder_lr=2e-4)
    np.testing.assert_allclose(rates(found, UP), 1e-3, rtol=1e-3)
    np.testing.assert_allclose(rates(found, UP, "text_encoder"), 2e-4, rtol=1e-3)
    assert set(rates(found, DOWN)) == {0.0}


def test_loraplus_lets_the_ups_learn_faster_than_the_downs(tiny_run: Run, tmp_path: Path) -> None:
    first = moved(tiny_run, tmp_path / "a", 1, learning_rate=1e-3, loraplus_lr_ratio=4)
    np.testing.assert_allclose(rates(first, UP), 4e-3, rtol=1e-3)
    for ratio in (1, 4):
        second = moved(tiny_run, tmp_path / str(ratio), 2, learning_rate=1e-3, loraplus_lr_ratio=ratio)
        np.testing.assert_allclose(rates(second, DOWN), ADAM_AT_STEP_TWO * 1e-3, rtol=0.02)


def test_each_block_of_the_unet_has_its_weight(tiny_run: Run, tmp_path: Path) -> None:
    """Two blocks each way, with one layer down and two up. A weight of 0 leaves adapters out."""
    down, mid, up = [0.5, 0.25, 2.0, 3.0], 0.75, [0.0, 4.0, 0.125, 1.5]
    numbers = {
        "conv_in": 0.5,
        "down_blocks.0.resnets.0": 0.25,
        "down_blocks.0.attentions.0": 0.25,
        "down_blocks.0.downsamplers.0": 2.0,
        "down_blocks.1.resnets.0": 3.0,
        "mid_block": 0.75,
        "up_blocks.0.resnets.1": 4.0,
        "up_blocks.0.upsamplers.0": 4.0,
        "up_blocks.1.resnets.0": 0.125,
        "up_blocks.1.attentions.0": 0.125,
        "up_blocks.1.resnets.1": 1.5,
        "up_blocks.1.attentions.1": 1.5,
        "conv_out": 1.0,
        "time_embedding": 1.0,
    }
    flags = {"network_module": "locon", "down_lr_weight": down, "mid_lr_weight": mid, "up_lr_weight": up}
    found = moved(tiny_run, tmp_path, 1, learning_rate=1e-3, **flags)
    seen = set()
    for (place, leaf), value in found.items():
        (name,) = (name for name in numbers if place.path == name or place.path.startswith(f"{name}."))
        seen.add(name)
        if leaf == UP:
            np.testing.assert_allclose(value, 1e-3 * numbers[name], rtol=1e-3, err_msg=place.path)
    assert seen == set(numbers), "and none in the first layer up"


@pytest.mark.parametrize(
    ("path", "side", "index"),
    [
        ("conv_in", "down", 0),
        ("down_blocks.0.resnets.0.conv1", "down", 1),
        ("down_blocks.0.attentions.1.proj_in", "down", 2),
        ("down_blocks.0.downsamplers.0.conv", "down", 3),
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down", 4),
        ("down_blocks.2.downsamplers.0.conv", "down", 9),
        ("down_blocks.3.resnets.0.conv2", "down", 10),
        ("down_blocks.3.resnets.1.conv1", "down", 11),
        ("up_blocks.0.resnets.0.conv1", "up", 0),
        ("up_blocks.0.resnets.2.conv1", "up", 2),
        ("up_blocks.0.upsamplers.0.conv", "up", 2),
        ("up_blocks.1.attentions.0.proj_out", "up", 3),
        ("up_blocks.3.resnets.2.conv_shortcut", "up", 11),
        ("up_blocks.3.attentions.2.proj_in", "up", 11),
    ],
)
def test_the_numbers_stand_for_the_layers_that_they_stand_for_in_kohyas_scripts(
    path: str, side: str, index: int
) -> None:
    """Stable Diffusion 1's UNet; `get_block_index` of networks/lora.py. IN00 to IN11 and OUT00 to OUT11 of A1111's."""
    config = SimpleNamespace(layers_per_block=2, block_out_channels=(320, 640, 1280, 1280))
    bundle = cast(Bundle, SimpleNamespace(unet=SimpleNamespace(config=config)))
    flags = {f"{side}_lr_weight": [float(number) for number in range(12)]}
    run = Flags(ModelArguments(network_module="lora", **flags), DataArguments(), cast(SDTrainingArguments, None))
    check_block_weights(run, bundle)
    assert block_weight(run, bundle, Place("unet", path)) == index
    other = "up_blocks.1.resnets.0.conv1" if side == "down" else "down_blocks.1.resnets.0.conv1"
    assert block_weight(run, bundle, Place("unet", other)) == 1
    assert block_weight(run, bundle, Place("text_encoder", path)) == 1


def test_no_adapter_is_made_where_the_weight_is_0(tiny_run: Run, tmp_path: Path) -> None:
    everywhere = places(built(tiny_run, tmp_path))
    without = places(built(tiny_run, tmp_path, mid_lr_weight=0))
    assert without == {path for path in everywhere if not path.startswith("mid_block.")} != everywhere


def test_one_step_size_for_all_weights_excludes_other_rates(tiny_run: Run, tmp_path: Path) -> None:
    adafactor = {"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=True"]}
    for more in ({"loraplus_lr_ratio": 2}, {"mid_lr_weight": 0.5}, {"unet_lr": 1e-3, "text_encoder_lr": 1e-4}):
        with pytest.raises(ValueError, match="relative_step=True: all weights then have one step size"):
            built(tiny_run, tmp_path, train_text_encoder=True, **adafactor, **more)


def test_a_part_at_rate_0_stays_as_it_is(tiny_run: Run, tmp_path: Path) -> None:
    found = moved(tiny_run, tmp_path, 2, train_text_encoder=True, unet_lr=0, text_encoder_lr=1e-3)
    assert set(rates(found, UP) + rates(found, DOWN)) == {0.0}
    np.testing.assert_allclose(min(rates(found, DOWN, "text_encoder")), ADAM_AT_STEP_TWO * 1e-3, rtol=0.1)
