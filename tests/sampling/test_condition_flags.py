"""What flags make of files: each ControlNet's own annotator, networks with their own models, one read for each file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from PIL import Image

from ppsd.data.annotators import hand_in
from ppsd.models.annotators import load_annotator
from ppsd.sampling.condition_flags import ConditionFlags
from ppsd.sampling.conditioned import generate_told, grid_beside, shown
from ppsd.sampling.scenes import Scene

SIZE = (64, 48)  # width, height


@pytest.fixture
def networks() -> Iterator[list[tuple[str, str]]]:
    """Stand-ins for annotators' networks, and which of them were loaded: a depth of 1/4, edges of 200."""
    loaded: list[tuple[str, str]] = []

    def load(name: str, model: str) -> Callable[[np.ndarray, int], np.ndarray]:
        loaded.append((name, model))
        if name == "depth":
            return lambda pixels, seed: np.full((1, *pixels.shape[1:]), 0.25, np.float32)
        return lambda pixels, seed: np.full(pixels.shape, 200, np.uint8)

    hand_in(load)
    yield loaded
    hand_in(load_annotator)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_each_controlnet_has_its_annotator(networks: list[tuple[str, str]], file: Path) -> None:
    names, models = ["hed", "none", "depth"], ["stand-in/hed", "stand-in/depth"]
    flags = ConditionFlags(annotator=names, annotator_model=models, controlnets=3)
    told = flags.read([Scene((file, file, file))] * 2, SIZE, 0)
    assert networks == [("hed", "stand-in/hed"), ("depth", "stand-in/depth")]
    assert told["controls"].shape == (2, 3, 48, 64, 3)
    edges, plain, depth = told["controls"][1]
    assert (edges == 200).all()
    np.testing.assert_array_equal(plain, np.asarray(Image.open(file)))
    assert (depth == 64).all()


def test_a_depth_is_made_of_the_picture(networks: list[tuple[str, str]], file: Path) -> None:
    flags = ConditionFlags(annotator=["depth"], annotator_model=["stand-in/other depth"])
    told = flags.read([Scene((file,))], SIZE, 0)
    assert (told["depth"] == np.float32(0.25)).all()
    np.testing.assert_array_equal(told["pixels"][0], np.asarray(Image.open(file)))
    assert [picture[0, 0, 0] for picture in shown(told, 0)] == [told["pixels"][0, 0, 0, 0], 64]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (ConditionFlags(annotator=["hed"], controlnets=1), "--annotator hed needs --annotator_model"),
        (ConditionFlags(annotator=["pose"], controlnets=1), "--annotator pose draws points that each record must have"),
        (ConditionFlags(annotator=["canny", "canny"], controlnets=3), "--annotator: 2 names for 3 ControlNets"),
        (ConditionFlags(annotator=["canny:x"], controlnets=1), "--annotator canny:x: 'x' is not a number above 0"),
    ],
)
def test_annotators_that_cannot_be(flags: ConditionFlags, message: str, file: Path) -> None:
    with pytest.raises(ValueError, match=message):
        flags.read([Scene((file,))], SIZE, 0)


def test_seeds_are_for_annotators_with_chance(file: Path) -> None:
    flags = ConditionFlags(annotator=["shuffle"], controlnets=1)
    one, again, other = (flags.read([Scene((file,))], SIZE, seed)["controls"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.1


def test_nothing_is_told_of_no_scenes() -> None:
    assert ConditionFlags().read([], SIZE, 0) == {}


def test_the_grid_has_what_was_told_first() -> None:
    told = {"controls": np.stack([np.full((1, 160, 160, 3), value, np.uint8) for value in (10, 10, 20, 20)])}
    rows = [[np.full((160, 160, 3), 100 * row + number, np.uint8) for number in range(4)] for row in (1, 2)]
    grid = grid_beside(rows, ["a", "b"], ["x", "x", "y", "y"], told, copies=2)
    height, width = grid.shape[0] // 2, grid.shape[1] // 5
    seen = [[int(grid[line * height + 80, column * width + 80, 0]) for column in range(5)] for line in range(2)]
    assert seen == [[10, 100, 101, 200, 201], [20, 102, 103, 202, 203]]


def test_controls_have_no_say_without_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppsd.sampling import conditioned

    monkeypatch.setattr(conditioned, "generate", lambda pipe, prompts, **settings: settings)
    controls = np.zeros((1, 1, 48, 64, 3), np.uint8)
    settings: object = generate_told(None, ["x"], controls=controls, height=48, width=64, seed=1)
    assert settings == {"height": 48, "width": 64, "seed": 1}
