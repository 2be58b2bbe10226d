"""Previews of methods with conditions: what was told stands left of what was drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsd.sampling.prompts import Prompt
from ppsd.trainers import running
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.preview_conditions import Files, of_batch, pair
from tests.data.scenes import mask_of, scene
from tests.trainers.condition_runs import NARROW, Method, learn, scenes
from tests.trainers.conftest import Run

NAMES = {ControlNetTrainer: {"controls"}, InpaintingTrainer: {"pixels", "mask"}, DepthTrainer: {"depth"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("scenes") / "set")


def square(path: Path, seed: int, size: int = 64) -> np.ndarray:
    """A mask of a scene, as a file; its pixels are what training would have, too."""
    image = mask_of(scene(size, size, seed=seed)).point(lambda value: 255 if value >= 128 else 0)
    image.save(path)
    return np.asarray(image)


def tiles(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_condition_and_results_side_by_side(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """Two images for one prompt, three pictures of each."""
    shown = [square(tmp_path / f"{n}.png", n) for n in range(2)]
    given: dict[str, Any] = {
        "validation_image": [tmp_path / "0.png", tmp_path / "1.png"],
        "validation_prompts": ["a shape"],
        "num_validation_images": 3,
        "max_steps": 1,
        **NARROW,
    }
    trainer = learn(tiny_run, tmp_path / "run", ControlNetTrainer, folder, image_logging_steps=1, **given)
    assert [prompt.text for prompt in trainer.previews.given] == ["a shape"] * 2
    sheet = tiles(tmp_path / "run" / "previews" / "step-0000001.png")
    scale = 3  # so that the words can be read
    cell = 64 * scale + 8
    assert sheet.shape[1] == 4 * cell
    height = sheet.shape[0] // 2
    for row, expected in enumerate(shown):
        left = sheet[row * height + 4 : row * height + 4 + 64 * scale : scale, 4 : 4 + 64 * scale : scale]
        np.testing.assert_array_equal(left[..., 0], expected)


@pytest.mark.parametrize("method", [ControlNetTrainer, InpaintingTrainer, DepthTrainer])
def test_a_continued_run_draws_with_the_conditions_of_its_beginning(
    tiny_run: Run, tmp_path: Path, folder: Path, method: Method
) -> None:
    given: dict[str, Any] = {"image_logging_steps": 2, "save_steps": 2}
    first = learn(tiny_run, tmp_path, method, folder, max_steps=2, **given)
    again = learn(tiny_run, tmp_path, method, folder, max_steps=4, **given)
    assert set(first.previews.told) == NAMES[method]
    for name, value in first.previews.told.items():
        np.testing.assert_array_equal(again.previews.told[name], value)
        assert len(value) == len(again.previews.given) == 4
    assert (tmp_path / "previews" / "step-0000004.png").is_file()


def of(flag: str, *paths: str) -> Files:
    return Files(flag, "conditioning", list(paths) or None)


def test_one_prompt_or_one_image_is_for_all() -> None:
    one, two = [Prompt("a")], [Prompt("a"), Prompt("b")]
    prompts, files = pair(one, [of("validation_image", "x", "y")])
    assert ([prompt.text for prompt in prompts], files[0].paths) == (["a", "a"], ["x", "y"])
    prompts, files = pair(two, [of("validation_image", "x")])
    assert ([prompt.text for prompt in prompts], files[0].paths) == (["a", "b"], ["x", "x"])
    assert pair([], [of("validation_image")]) == ([], [])
    assert pair(two, []) == (two, [])


@pytest.mark.parametrize(
    ("prompts", "files", "message"),
    [
        (["a", "b"], [of("validation_image", "x", "y", "z")], "--validation_image: 3, --validation_prompt: 2"),
        (["a"], [of("validation_image")], "--validation_prompt needs --validation_image"),
        ([], [of("validation_image", "x")], "--validation_image needs --validation_prompt"),
        (["a"], [of("validation_image", "x"), of("validation_mask")], "needs --validation_mask"),
    ],
)
def test_other_numbers_of_them_are_refused(prompts: list[str], files: list[Files], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair([Prompt(text) for text in prompts], files)


def test_prompts_with_a_size_of_their_own_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' has a size of its own"):
        pair([Prompt("a", width=64)], [of("validation_image", "x")])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "No such file"),
        ("words", "not an image"),
        ("wide", "other shape than the image"),
    ],
)
def test_files_that_cannot_be_told_are_named(
    tiny_run: Run, tmp_path: Path, folder: Path, write: str, message: str
) -> None:
    picture, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    scene(64, 64).save(picture)
    if write == "words":
        mask.write_text("no picture")
    elif write == "wide":
        mask_of(scene(90, 60)).save(mask)
    given = {"validation_image": picture, "validation_mask": mask, "validation_prompts": ["a"], "do_train": False}
    with pytest.raises(ValueError, match=rf"--validation_mask: .*{message}"):
        learn(tiny_run, tmp_path / "run", InpaintingTrainer, folder, **given)


def test_a_run_that_starts_over_draws_with_conditions_of_its_own(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """Not with those of the run that was there, which may be other ones."""
    given: dict[str, Any] = {"image_logging_steps": 1, "max_steps": 1, "overwrite_output_dir": True}
    first = learn(tiny_run, tmp_path, DepthTrainer, folder, **given)
    again = learn(tiny_run, tmp_path, DepthTrainer, folder, seed=8, **given)
    assert (first.previews.told["depth"] != again.previews.told["depth"]).any()
    learn(tiny_run, tmp_path, InpaintingTrainer, folder, **given)


def test_wrong_files_are_known_before_anything_is_loaded(
    tiny_run: Run, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "find_start", lambda *_: pytest.fail("the run has begun"))
    given: dict[str, Any] = {"validation_image": tmp_path / "missing.png", "validation_prompts": ["a"]}
    with pytest.raises(ValueError, match=r"--validation_image: .*missing\.png"):
        learn(tiny_run, tmp_path / "run", ControlNetTrainer, folder, **given)


def test_conditions_that_another_method_has_kept_are_not_taken(tmp_path: Path) -> None:
    file, pixels = tmp_path / "previews" / "conditions.npz", np.full((3, 3, 8, 8), 7, np.uint8)
    depth = np.full((3, 1, 8, 8), 0.5, np.float32)
    assert of_batch(("depth",), {"depth": depth}, 2, file)["depth"].shape == (2, 8, 8)
    batch = {"pixels": pixels, "mask": pixels[:, :1]}
    assert of_batch(("pixels", "mask"), batch, 2, file)["pixels"].shape == (2, 8, 8, 3)
    assert (of_batch(("pixels", "mask"), {}, 2, file)["mask"] == 7).all(), "kept of its own"
