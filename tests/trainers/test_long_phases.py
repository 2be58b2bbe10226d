"""Previews may take hours: they are signs of life, and the other processes wait for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from ppsd.trainers import previews
from ppsd.trainers.due import Every
from ppsd.trainers.heart import Heart, Phase
from ppsd.trainers.previews import PreviewCallback
from tests.trainers.conftest import Run


def test_each_step_of_a_preview_is_a_sign_of_life(tiny_run: Run, tmp_path: Path) -> None:
    few, more = (
        tiny_run.train(
            tmp_path / str(steps), max_steps=1, save_strategy="no", image_logging_steps=1, num_inference_steps=steps
        ).heart.beats
        for steps in (2, 7)
    )
    assert more - few == 5


def test_the_other_processes_wait_for_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    """This one is not the first."""
    waited = []
    callback = PreviewCallback.__new__(PreviewCallback)
    callback.heart, callback.first, callback.every = Heart(), None, Every(2)

    def first_alone(work: Callable[[], Any]) -> None:
        waited.append(callback.heart.phase)

    monkeypatch.setattr(previews, "first_alone", first_alone)
    for step in range(1, 6):
        state = SimpleNamespace(global_step=step, max_steps=5)
        callback.on_step_end(SimpleNamespace(), state, None)
    assert waited == [Phase.PREVIEWS] * 3
    assert callback.heart.phase is Phase.DATA
