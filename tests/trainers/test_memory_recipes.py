"""The recipes of configs/controlnet fit the cards that they are named after, as tools/plan_memory.py counts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ppsd.models.footprint import Footprint, read_footprint
from ppsd.trainers.arguments import check_arguments
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.memory_plan import GIB, plan
from ppsd.trainers.memory_recipe import settings_of
from ppsd.trainers.memory_settings import Settings
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.run import Run

ROOT = Path(__file__).parents[2]
CARDS = (8, 12, 16, 24)
LEFT_FREE = 0.1
"""Of the card: what is estimated may be wrong by so much, and a desktop takes some."""


def recipe(card: int) -> Path:
    return ROOT / "configs" / "controlnet" / f"{card}gb.yaml"


def parsed(card: int, *flags: str) -> Run:
    argv = ["--config", str(recipe(card)), "--output_dir", "none", *flags]
    return parse_run(ControlNetTrainer.own_arguments, argv, ControlNetTrainer.defaults)


def peak(model: Footprint, settings: Settings) -> float:
    """GiB."""
    return sum(plan(model, settings).values()) / GIB


@pytest.fixture(scope="module")
def models() -> dict[str, Footprint]:
    return {name: read_footprint(name) for name in ("sd15", "sd21")}


def test_there_is_a_recipe_for_each_card() -> None:
    assert sorted(path.name for path in (ROOT / "configs" / "controlnet").glob("*gb.yaml")) == sorted(
        recipe(card).name for card in CARDS
    )


@pytest.mark.parametrize("card", CARDS)
def test_a_recipe_fits_its_card(models: dict[str, Footprint], card: int) -> None:
    settings = settings_of("controlnet", parsed(card))
    assert settings.resolution == 512
    assert peak(models["sd15"], settings) <= (1 - LEFT_FREE) * card
    larger = replace(settings, resolution=768, recompute=True)
    assert peak(models["sd21"], larger) <= (1 - LEFT_FREE) * card


@pytest.mark.parametrize("card", CARDS)
def test_a_recipes_comment_says_what_is_counted(models: dict[str, Footprint], card: int) -> None:
    text = recipe(card).read_text(encoding="utf-8")
    settings = settings_of("controlnet", parsed(card))
    said = [float(number) for number in re.findall(r": +(\d+\.\d\d) GiB", text)]
    counted = [peak(models["sd15"], settings), peak(models["sd21"], replace(settings, resolution=768, recompute=True))]
    assert said == pytest.approx(counted, abs=0.006)


@pytest.mark.parametrize("card", CARDS)
def test_a_recipe_is_one_that_the_trainer_takes(card: int) -> None:
    """Four pictures an update, and nothing that is refused."""
    run = parsed(card)
    assert run.args.per_device_train_batch_size * run.args.gradient_accumulation_steps == 4
    assert run.args.bf16
    run.args.bf16, run.args.frozen_dtype = False, "float32"  # there need not be a GPU here
    check_arguments(run.model, run.data, run.args)
    ControlNetTrainer.check(run)


def test_only_the_largest_card_has_room_for_the_decoder(models: dict[str, Footprint]) -> None:
    """--sd_locked False, even with moments in 8 bits: what the pages say of it."""
    for card in CARDS:
        unlocked = parsed(card, "--sd_locked", "False", "--recompute", "--optimizer_type", "AdamW8bit")
        settings = settings_of("controlnet", unlocked)
        assert (peak(models["sd15"], settings) <= (1 - LEFT_FREE) * card) == (card == 24), card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network_module", "locon"], "--network_module: counted is lora beside the linear layers"),
        (["--network_module", "lora", "--conv_dim", "4"], "--network_module: counted is lora beside the linear layers"),
        (["--fp16_opt_level", "O2", "--amp_master_grad"], "--amp_master_grad: gradients in float32 are not counted"),
        (["--train_text_encoder"], "--train_text_encoder: --method controlnet"),
    ],
)
def test_what_would_be_counted_wrong_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of("controlnet", parsed(12, *flags))
