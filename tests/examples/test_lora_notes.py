"""eval.py reads prompts as the run behind a LoRA or a ControlNet read captions, however the file is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppsd.sampling.notes import noted_beside
from ppsd.sampling.text import TextSettings, write_text_settings


@pytest.mark.parametrize("part", ["", "toy.safetensors", "adapter/weights.safetensors", "controlnet"])
def test_the_note_of_a_run_is_found(tmp_path: Path, part: str) -> None:
    run = tmp_path / "toy"
    for name in ("adapter", "controlnet"):
        (run / name).mkdir(parents=True)
        (run / name / "weights.safetensors").touch()
    (run / "toy.safetensors").touch()
    write_text_settings(run, TextSettings(clip_skip=2))
    write_text_settings(tmp_path, TextSettings(clip_skip=3))
    assert noted_beside([str(run / part)], TextSettings()) == TextSettings(clip_skip=2)
    assert noted_beside([str(run / part)], TextSettings(clip_skip=1)).clip_skip == 1


def test_runs_that_do_not_agree_are_settled_by_flags(tmp_path: Path) -> None:
    for name, skip in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_text_settings(tmp_path / name, TextSettings(clip_skip=skip))
    both = [str(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"--lora and --controlnet read captions differently .* give --clip_skip and"):
        noted_beside(both, TextSettings())
    assert noted_beside(both, TextSettings(2, 75)) == TextSettings(2, 75)
    assert noted_beside([], TextSettings()) == TextSettings()


def test_a_hub_name_has_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text_settings(tmp_path, TextSettings(clip_skip=2))
    monkeypatch.chdir(tmp_path)
    assert noted_beside(["canny"], TextSettings()) == TextSettings()
