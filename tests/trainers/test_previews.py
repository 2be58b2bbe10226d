from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsd.trainers.arguments import check_arguments
from ppsd.trainers.arguments.validation import ValidationArguments
from ppsd.trainers.due import Every
from tests.trainers.conftest import Run, parse

NEEDED = ["--output_dir", "out", "--max_steps", "5"]


def drawn(folder: Path) -> set[int]:
    return {int(path.stem.split("-")[1]) for path in (folder / "previews").glob("step-*.png")}


def saved(folder: Path) -> set[int]:
    return {int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")}


def test_previews_and_saves_by_epochs(tiny_run: Run, tmp_path: Path) -> None:
    """8 records are 2 steps of 4: epochs end at steps 2, 4 and 6."""
    tiny_run.train(
        tmp_path,
        max_steps=7,
        num_records=8,
        sample_every_n_epochs=2,
        save_every_n_epochs=1,
        save_strategy="no",
        image_logging_steps=None,
        validation_prompts=["a"],
    )
    assert drawn(tmp_path) == {4, 7}
    assert saved(tmp_path) == {2, 4, 6}


def test_saving_by_epochs_is_beside_saving_by_steps(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=7, num_records=8, save_steps=5, save_every_n_epochs=2)
    assert saved(tmp_path) == {4, 5, 7}


def test_flags_that_count_epochs_need_one(tiny_run: Run, tmp_path: Path) -> None:
    for flag in ("save_every_n_epochs", "validation_epochs", "sample_every_n_epochs"):
        with pytest.raises(ValueError, match=f"--{flag}: a stream has no known length; say with --num_records"):
            tiny_run.train(tmp_path, **{flag: 1})


def test_each_prompt_of_the_file_has_its_own_settings(tiny_run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle --s 1\na blue square --w 32 --h 48 --d 4 --n photo --l 2\n")
    tiny_run.train(tmp_path, max_steps=1, sample_prompts=file, num_validation_images=2, image_logging_steps=1)
    grid = np.asarray(Image.open(tmp_path / "previews" / "step-0000001.png"))
    scale = 3  # tiles of 64 pixels, enlarged so that the captions can be read
    tile = 64 * scale + 8
    assert grid.shape[1] == 2 * tile, "a row for each prompt, its pictures beside one another"
    below = grid[grid.shape[0] // 2 :]
    inked = np.argwhere((below[4 : 4 + 64 * scale, 4 : 4 + 64 * scale] < 255).any(axis=2))
    height, width = inked.max(axis=0) - inked.min(axis=0) + 1
    assert abs(height - 48 * scale) <= scale
    assert abs(width - 32 * scale) <= scale
    first, second = (below[60:120, left : left + 60].astype(int) for left in (60, 60 + tile))
    assert np.abs(first - second).mean() > 1, "each of a prompt's pictures has noise of its own"


def test_pictures_change_with_the_weights_alone(tiny_run: Run, tmp_path: Path) -> None:
    flags = {"image_logging_steps": 1, "validation_prompts": ["a red circle"], "num_validation_images": 2}
    for name, rate in (("still", 0.0), ("moving", 1e-2)):
        tiny_run.train(tmp_path / name, max_steps=2, learning_rate=rate, **flags)
    files = [tmp_path / name / "previews" / f"step-000000{n}.png" for name in ("still", "moving") for n in (1, 2)]
    still, still_later, moving, moving_later = (np.asarray(Image.open(file)) for file in files)
    np.testing.assert_array_equal(still, still_later)
    assert (moving != moving_later).any()


def period(*flags: str) -> Every:
    return parse([*NEEDED, *flags])[2].preview_period(10)


def test_whose_flag_says_when_previews_are_drawn() -> None:
    """diffusers' for all, PaddleMIX' and kohya's for previews alone, which come first."""
    assert period() == Every(1000, None, 10)
    assert period("--validation_steps", "50") == Every(50, None, 10)
    assert period("--validation_epochs", "2") == Every(None, 2, 10)
    assert period("--validation_epochs", "2", "--sample_every_n_steps", "7") == Every(7, None, 10)
    assert period("--validation_steps", "50", "--sample_every_n_epochs", "1") == Every(None, 1, 10)
    assert not period("--validation_epochs", "2", "--image_logging_steps", "-1").ever
    losses = ValidationArguments(image_logging_steps=3, validation_epochs=2).loss_period(10)
    assert losses == Every(None, 2, 10)
    assert ValidationArguments(image_logging_steps=3).loss_period(10) == Every(500, None, 10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--validation_split", "1"], "--validation_split is 1.0; it must be at least 0 and below 1"),
        (["--validation_split", "-0.1"], "--validation_split is -0.1"),
        (["--validation_split", "nan"], "--validation_split is nan"),
        (["--validation_steps", "0"], "--validation_steps is 0; it must be at least 1"),
        (["--num_validation_images", "0"], "--num_validation_images is 0"),
        (["--max_validation_samples", "0"], "--max_validation_samples is 0"),
        (["--save_every_n_epochs", "-2"], "--save_every_n_epochs is -2"),
        (["--sample_prompts", "p", "--validation_prompt", "a"], "--validation_prompts and --sample_prompts both say"),
        (["--sample_prompts", "nowhere.txt"], "--sample_prompts: cannot read nowhere.txt"),
    ],
)
def test_flags_that_cannot_work_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_arguments(*parse([*NEEDED, *flags]))


def test_the_names_that_other_scripts_have_are_taken(tmp_path: Path) -> None:
    args = parse([*NEEDED, "--validation_prompt", "a red cat", "--sample_every_n_steps", "9"])[2]
    assert (args.validation_prompts, args.image_logging_steps) == (["a red cat"], 9)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("sample_every_n_steps: 5\n")
    assert parse([*NEEDED, "--config", str(recipe)])[2].image_logging_steps == 5
