"""The number of devices and of accumulated batches changes the speed, not the result."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.images import write_parts
from tests.tiny import UNET_CONFIG, tiny_pipeline_dir
from tests.trainers.conftest import Run
from tests.trainers.recording import Layout, Recorded, record_all

BASE = Layout(1, 4)
LAYOUTS = {"2x2": Layout(2, 2), "1x2, 2 accumulated": Layout(1, 2, 2), "2x1, 2 accumulated": Layout(2, 1, 2)}
RECORDS, STEPS, SAVED = 64, 50, (17, 34)  # a pass over the data is 16 steps, an epoch of --num_records is 6
LONG: dict[str, Any] = {"max_steps": STEPS, "save_steps": SAVED[0], "num_records": 24, "caption_dropout_rate": 0}
SHORT: dict[str, Any] = {
    "max_steps": None,
    "num_records": 24,
    "num_train_epochs": 2,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.25,
    "logging_steps": 4,
    "save_steps": 5,
    "image_logging_steps": 7,
}
Runs = dict[Layout, Recorded]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("layouts")
    config = folder / "unet.json"
    config.write_text(json.dumps(UNET_CONFIG), encoding="utf-8")
    return Run(tiny_pipeline_dir(folder), config, write_parts(folder, [RECORDS // 2] * 2, 72, 80))


@pytest.fixture(scope="module")
def runs(data: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runs]:
    """A long and a short run in every layout, with one launch of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Runs] = {"long": {}, "short": {}}
    places = {
        (kind, layout): folder / f"{kind}-{layout.processes}x{layout.batch}x{layout.accumulation}"
        for kind in made
        for layout in (BASE, *LAYOUTS.values())
    }
    for processes in (1, 2):
        mine = {key: place for key, place in places.items() if key[1].processes == processes}
        options = {"long": LONG, "short": SHORT}
        flags = [data.flags(place, **options[kind], **layout.flags) for (kind, layout), place in mine.items()]
        record_all(processes, flags, folder)
    for (kind, layout), place in places.items():
        made[kind][layout] = Recorded(place)
    return made


@pytest.fixture(scope="module")
def moved(data: Run, runs: dict[str, Runs], tmp_path_factory: pytest.TempPathFactory) -> list[Recorded]:
    """A run begun on two processes, continued on one with accumulation, and then on two with accumulation."""
    folder = tmp_path_factory.mktemp("moved")
    made = [runs["long"][LAYOUTS["2x2"]]]
    for layout, step in zip((Layout(1, 2, 2), Layout(2, 1, 2)), SAVED):
        checkpoint = made[-1].folder / f"checkpoint-{step}"
        output = folder / f"from-{step}"
        record_all(
            layout.processes, [data.flags(output, **LONG, **layout.flags, resume_from_checkpoint=checkpoint)], folder
        )
        made.append(Recorded(output))
    return made


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_step_has_the_same_records_and_loss(runs: dict[str, Runs], layout: Layout) -> None:
    whole, parts = runs["long"][BASE], runs["long"][layout]
    assert list(whole.seeds()) == list(range(1, STEPS + 1))
    assert parts.seeds() == whole.seeds()
    assert all(len(set(seeds)) == 4 for seeds in parts.seeds().values())
    assert list(parts.logged("loss")) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([*parts.logged("loss").values()], [*whole.logged("loss").values()], rtol=1e-5)


def test_a_run_moves_between_layouts_and_loses_no_record(runs: dict[str, Runs], moved: list[Recorded]) -> None:
    """It is moved in the middle of a pass over the data, and of an epoch of --num_records."""
    whole = runs["long"][BASE]
    ends = [0, *SAVED, STEPS]
    steps = {k: run.steps[k] for run, begin, end in zip(moved, ends, ends[1:]) for k in range(begin + 1, end + 1)}
    assert {k: sorted(step.seeds) for k, step in steps.items()} == whole.seeds()
    captions = [caption for _, step in sorted(steps.items()) for caption in step.captions]
    for start in range(0, len(captions) - RECORDS + 1, RECORDS):
        taken = Counter(captions[start : start + RECORDS])
        assert len(taken) == RECORDS
        assert set(taken.values()) == {1}
    for run, step in zip(moved[1:], SAVED):
        assert min(run.steps) == step + 1
    np.testing.assert_allclose([*moved[-1].logged("loss").values()], [*whole.logged("loss").values()], rtol=1e-5)


@pytest.mark.parametrize("layout", [BASE, *LAYOUTS.values()], ids=["1x4", *LAYOUTS])
def test_schedules_count_optimizer_steps(runs: dict[str, Runs], layout: Layout) -> None:
    """Two epochs of 24 records are 12 steps of 4, of which a quarter are warm-up."""
    run = runs["short"][layout]
    warmup = [step / 3 for step in range(3)]
    cosine = [(1 + math.cos(math.pi * (step - 3) / 9)) / 2 for step in range(3, 12)]
    assert list(run.steps) == list(range(1, 13))
    for step, share in zip(run.steps.values(), warmup + cosine):
        np.testing.assert_allclose(step.rates, 1e-3 * share, rtol=1e-9)
        assert len(step.rates) == layout.processes * layout.accumulation
    assert list(run.logged("loss")) == [4, 8, 12]
    assert run.names("checkpoint-*") == {"checkpoint-5", "checkpoint-10", "checkpoint-12"}
    assert run.names("previews/step-*") == {"step-0000007.png", "step-0000012.png"}


def test_what_is_logged_is_the_mean_of_the_steps(runs: dict[str, Runs]) -> None:
    """Of all records since the last line, whoever took them."""
    short = [[*run.logged("loss").values()] for run in runs["short"].values()]
    for losses in short[1:]:
        np.testing.assert_allclose(losses, short[0], rtol=1e-5)


def test_an_epoch_that_ends_within_a_step_leaves_no_gradient_behind(
    data: Run, runs: dict[str, Runs], tmp_path: Path
) -> None:
    """After 17 steps of 4, an epoch of 24 has one batch of 4 left: half a step of 2 x 4. An endless one has no ends."""
    checkpoint = runs["long"][BASE].folder / f"checkpoint-{SAVED[0]}"
    made = []
    for name, num_records in (("epochs", 24), ("endless", None)):
        changes = {**LONG, **Layout(1, 4, 2).flags, "num_records": num_records, "max_steps": SAVED[0] + 7}
        record_all(1, [data.flags(tmp_path / name, **changes, resume_from_checkpoint=checkpoint)], tmp_path)
        made.append(Recorded(tmp_path / name))
    epochs, endless = made
    assert epochs.seeds() == endless.seeds()
    assert {len(seeds) for seeds in epochs.seeds().values()} == {8}
    assert epochs.logged("loss") == endless.logged("loss")


def test_epochs_are_whole_steps_that_logs_and_saves_may_follow(data: Run, tmp_path: Path) -> None:
    """Epochs of 3 steps; the last one ends early."""
    changes = {"max_steps": 5, "num_records": 12, "logging_strategy": "epoch", "save_strategy": "epoch"}
    record_all(1, [data.flags(tmp_path / "out", **changes, **Layout(1, 2, 2).flags)], tmp_path)
    run = Recorded(tmp_path / "out")
    assert list(run.logged("loss")) == [3, 5]
    assert run.names("checkpoint-*") == {"checkpoint-3", "checkpoint-5"}
