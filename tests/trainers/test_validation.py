"""--validation_split in whole runs: what is measured, when, and that training does not notice."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from visualdl import LogReader

from ppsd.trainers.trainer import StableDiffusionTrainer
from ppsd.trainers.validation import ValidationCallback
from tests.images import jpeg_bytes, write_parts
from tests.trainers.conftest import Run, assert_same_weights, losses, weights
from tests.trainers.recording import Layout, Recorded, record_all

SPLIT = {"validation_split": 0.2, "max_validation_samples": 6}


def measured(trainer: StableDiffusionTrainer, name: str = "validation_loss") -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def saved(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "validation.json").read_text()))


def test_it_is_measured_before_the_first_step_when_it_is_due_and_at_the_end(tiny_run: Run, tmp_path: Path) -> None:
    trainer = tiny_run.train(tmp_path, validation_steps=2, max_steps=5, use_ema=True, report_to="visualdl", **SPLIT)
    found = measured(trainer)
    assert sorted(found) == [0, 2, 4, 5]
    assert sorted(measured(trainer, "validation_loss_ema")) == [2, 4, 5], "before the first step there is no average"
    assert 0.8 < found[0] < 1.2, "a random UNet says nothing; the mean square of the noise is 1"
    file = saved(tmp_path)
    assert len(file["records"]) == 6
    assert file["timesteps"] == 11
    assert [entry["step"] for entry in file["measurements"]] == [0, 2, 4, 5]
    assert np.mean(file["measurements"][1]["loss"]) == pytest.approx(found[2], abs=1e-8)
    reader = LogReader(file_path=str(next((tmp_path / "runs").rglob("*.log"))))
    tags = {tag.split("/")[-1] for tag in reader.get_tags()["scalar"]}
    assert {"validation_loss", "validation_loss_error", "validation_loss_ema"} <= tags


def test_held_out_records_are_never_trained_on(tiny_run: Run, tmp_path: Path) -> None:
    """60 records, three epochs of those that are left."""
    flags = tiny_run.flags(tmp_path, max_steps=36, save_strategy="no", **{**SPLIT, "max_validation_samples": 60})
    record_all(1, [flags], tmp_path)
    trained = {caption for step in Recorded(tmp_path).steps.values() for caption in step.captions}
    names = saved(tmp_path)["records"]
    lines = [line for part in sorted((tiny_run.file_list.parent / "set").iterdir()) for line in part.open("rb")]
    images = [base64.b64decode(line.split(b"\t")[2]) for line in lines]
    assert images[31] == jpeg_bytes(72, 80, seed=1001)
    held_out = {f"set {int(name.split('part-')[1][:6]) - 1} {int(name.rsplit(':', 1)[1]) - 1}" for name in names}
    plain = {" ".join(caption.split()) for caption in trained if caption.strip()}
    assert 4 <= len(held_out) <= 22, "a fifth of 60, give or take"
    assert not {_spaced(caption) for caption in held_out} & plain
    assert len(plain) == 60 - len(held_out), "and all others are trained on"


def _spaced(caption: str) -> str:
    """As the tiny tokenizer gives it back."""
    name, *numbers = caption.split()
    return " ".join([name, *(" ".join(number) for number in numbers)])


def test_measuring_changes_nothing_in_training(tiny_run: Run, tmp_path: Path) -> None:
    often = tiny_run.train(tmp_path / "often", validation_steps=1, **SPLIT)
    seldom = tiny_run.train(tmp_path / "seldom", validation_steps=1000, **SPLIT)
    assert losses(often) == losses(seldom)
    assert_same_weights(weights(tmp_path / "often"), weights(tmp_path / "seldom"))
    assert sorted(measured(often)) == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(measured(seldom)) == [0, 6]
    assert measured(often)[6] == measured(seldom)[6]


def test_a_run_that_was_killed_has_the_same_figures(tiny_run: Run, tmp_path: Path) -> None:
    flags = {"validation_steps": 1, "use_ema": True, "lr_scheduler_type": "constant", **SPLIT}
    whole = tiny_run.train(tmp_path / "whole", **flags)
    tiny_run.train(tmp_path / "cut", **{**flags, "max_steps": 3})
    again = tiny_run.train(tmp_path / "cut", **flags)
    for name in ("validation_loss", "validation_loss_error", "validation_loss_ema", "validation_rise"):
        assert measured(again, name) == measured(whole, name)
    assert saved(tmp_path / "cut") == saved(tmp_path / "whole")


def test_runs_with_another_seed_are_measured_on_the_same(tiny_run: Run, tmp_path: Path) -> None:
    one = tiny_run.train(tmp_path / "a", max_steps=1, **SPLIT)
    other = tiny_run.train(tmp_path / "b", max_steps=1, seed=8, unet_name_or_path=tiny_run.pipeline / "unet", **SPLIT)
    third = tiny_run.train(tmp_path / "c", max_steps=1, seed=9, unet_name_or_path=tiny_run.pipeline / "unet", **SPLIT)
    assert saved(tmp_path / "a")["digest"] == saved(tmp_path / "b")["digest"]
    assert measured(other)[0] == measured(third)[0] != measured(one)[0]


def test_chance_of_the_flags_does_not_reach_the_held_out_records(tiny_run: Run, tmp_path: Path) -> None:
    unet = tiny_run.pipeline / "unet"
    plain = tiny_run.train(tmp_path / "a", max_steps=1, unet_name_or_path=unet, caption_dropout_rate=0, **SPLIT)
    flags = {"random_flip": True, "caption_dropout_rate": 1.0, "caption_rule": "random", "input_perturbation": 0.5}
    chance = tiny_run.train(tmp_path / "b", max_steps=1, unet_name_or_path=unet, **flags, **SPLIT)
    assert measured(plain)[0] == measured(chance)[0]


def test_two_processes_measure_what_one_does(tiny_run: Run, tmp_path: Path) -> None:
    flags = {"validation_steps": 2, "max_steps": 4, "use_ema": True, **SPLIT}
    alone = {**flags, **Layout(1, 2, 2).flags}
    record_all(1, [tiny_run.flags(tmp_path / "one", **alone)], tmp_path)
    record_all(2, [tiny_run.flags(tmp_path / "two", **{**flags, **Layout(2, 2).flags})], tmp_path)
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert one["digest"] == two["digest"]
    assert one["measurements"][0] == two["measurements"][0], "of the same weights: bit for bit"
    for a, b in zip(one["measurements"], two["measurements"]):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=2e-4)  # gradients are summed in another order
    ranks = [json.loads(path.read_text())["log"] for path in sorted((tmp_path / "two").glob("rank-*.json"))]
    figures = [[entry["validation_loss"] for entry in log if "validation_loss" in entry] for log in ranks]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 3


def test_pictures_of_buckets_are_measured_in_their_sizes(tiny_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    wide, tall = write_parts(folder, [20], 144, 48, "wide"), write_parts(folder, [20], 48, 144, "tall")
    both = folder / "both.filelist.list"
    both.write_text(wide.read_text() + tall.read_text())
    buckets = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 32}
    run = Run(tiny_run.pipeline, tiny_run.unet_config, both)
    trainer = run.train(tmp_path / "out", max_steps=1, validation_split=0.3, **buckets)
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, ValidationCallback))
    assert {sample.pixels.shape for sample in callback.loss.held_out.samples} == {(8, 4, 12), (8, 12, 4)}
    assert all(np.isfinite(value) for value in measured(trainer).values())


def test_a_split_that_holds_out_nothing_is_said_before_training(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--validation_split holds out no usable record .*raise it"):
        tiny_run.train(tmp_path, validation_split=1e-9, check_data="off")
