"""eval.py reads prompts as the run behind a LoRA read captions, however the file is named."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from ppsd.sampling.text import TextSettings, write_text_settings
from tests.pages import ROOT


@pytest.mark.parametrize("lora", ["", "toy.safetensors", "adapter/weights.safetensors"])
def test_the_note_of_a_run_is_found(tmp_path: Path, lora: str) -> None:
    run = tmp_path / "toy"
    (run / "adapter").mkdir(parents=True)
    write_text_settings(run, TextSettings(clip_skip=2))
    write_text_settings(tmp_path, TextSettings(clip_skip=3))
    found = runpy.run_path(str(ROOT / "examples/stable_diffusion/eval.py"))["noted_beside"]
    assert found([[(str(run / lora), 1.0)]], TextSettings()) == TextSettings(clip_skip=2)
    assert found([[(str(run / lora), 1.0)]], TextSettings(clip_skip=1)).clip_skip == 1
