"""The benchmarks of ControlNet, inpainting and depth measure what they say, with flags that their scripts have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data.demo import NAMES, make_scene
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.parsing import parse_run
from tests.benchmarks import controlnet_demo, depth_demo, inpainting_demo
from tests.benchmarks.condition_runs import IMAGES, overlap_goals, time_goal
from tests.benchmarks.held_out_conditions import SEED, HeldOut, another_color, chance, held_out, read
from tests.benchmarks.inpainting_demo import Measured, boxes, goals, without_masked
from tests.benchmarks.method_runs import COMMON, Trained


@pytest.fixture(scope="module")
def data() -> HeldOut:
    return held_out(24)


@pytest.mark.parametrize(
    ("benchmark", "method"),
    [(controlnet_demo, ControlNetTrainer), (inpainting_demo, InpaintingTrainer), (depth_demo, DepthTrainer)],
)
def test_the_flags_are_those_of_the_script(benchmark: Any, method: Any, tmp_path: Path) -> None:
    words = benchmark.flags(tmp_path, tmp_path, benchmark.MAX_STEPS, benchmark.LEARNING_RATE)
    run = parse_run(method.own_arguments, ["--output_dir", str(tmp_path), *COMMON.split(), *words], method.defaults)
    run.check()
    method.check(run)
    assert run.args.max_steps == benchmark.MAX_STEPS
    assert run.args.learning_rate == benchmark.LEARNING_RATE
    assert run.data.train_data_dir == str(tmp_path)


def test_held_out_pictures_are_not_trained_on(data: HeldOut) -> None:
    trained = {make_scene(index) for index in range(IMAGES)}
    assert not trained & {make_scene(index, SEED) for index in range(100)}
    assert data.pictures.shape == data.outlines.shape == (24, 64, 64, 3)
    assert data.masks.shape == data.depths.shape == (24, 64, 64)
    assert 0 <= data.depths.min() < 0.1
    assert 0.9 < data.depths.max() <= 1


def test_true_pictures_score_full_marks_and_those_of_others_do_not(data: HeldOut) -> None:
    overlap, low, shape, background = read(data.pictures, data)
    assert overlap > 0.99
    assert low > 0.95
    assert (shape, background) == (1.0, 1.0)
    assert 0.3 < chance(data.pictures, data) < 0.6
    moved = read(np.roll(data.pictures, 1, axis=0), data)
    assert moved[0] < 0.6
    assert max(moved[2:]) < 0.5


def test_another_color_is_neither_of_the_pictures(data: HeldOut) -> None:
    chosen = [another_color(pair, number) for number, pair in enumerate(data.pairs)]
    assert all(color in NAMES and color not in pair for color, pair in zip(chosen, data.pairs))
    assert len(set(chosen)) > 5


def test_boxes_cover_the_shape_with_a_margin_and_stay_within_the_picture() -> None:
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 20:30, 40] = True
    masks[0, 25, 35:50] = True
    masks[1, 1:62, 10:12] = True
    made = boxes(masks, 4)
    expected = np.zeros_like(masks)
    expected[0, 16:34, 31:54] = True
    expected[1, :, 6:16] = True
    assert (made == expected).all()


@pytest.mark.parametrize(("overlap", "color", "met"), [(0.80, 0.85, [True, True]), (0.79, 0.84, [False, False])])
def test_goals_are_met_from_their_limits_on(overlap: float, color: float, met: list[bool]) -> None:
    assert [goal.met for goal in overlap_goals(overlap, color)] == met


def test_latents_without_masked_pixels_are_whole_blocks() -> None:
    masks = np.zeros((1, 64, 64), bool)
    masks[0, 8:17, 24:32] = True
    expected = np.ones_like(masks)
    expected[0, 8:24, 24:32] = False
    assert (without_masked(masks) == expected).all()


@pytest.mark.parametrize(
    ("found", "met"),
    [
        (Measured(0.75, 0.0, 0.5, 0.8), [True, True, True]),
        (Measured(0.76, 0.01, 0.5, 0.79), [False, False, False]),
    ],
)
def test_goals_of_inpainting(found: Measured, met: list[bool]) -> None:
    assert [goal.met for goal in goals(found)] == met


def test_the_time_goal_is_by_the_clock() -> None:
    assert time_goal(None) == []
    assert [time_goal(Trained(seconds, 0, "", 600.0))[0].met for seconds in (900.0, 901.0)] == [True, False]
