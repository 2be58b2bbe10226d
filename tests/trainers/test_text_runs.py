"""Whole runs with long captions, an earlier layer and shuffled tags."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppsd.data.tokens import TokenizeCaptions
from ppsd.models.conditioning import Conditioning
from ppsd.sampling.pipeline import load_pipeline
from ppsd.sampling.text import TextSettings, text_settings
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.trainers.conftest import Run, assert_same_weights, losses, weights

TAGS = ", ".join(["red circle", "blue square", "a photo", "the green background"] * 12)
FLAGS = {"max_token_length": 150, "clip_skip": 2, "trigger_words": "photo of a", "shuffle_caption": True}
FLAGS |= {"caption_tag_dropout_rate": 0.2, "caption_dropout_rate": 0.3}


@pytest.fixture(scope="module")
def run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("long")
    lines = [part_line(f"{i}, {TAGS}", jpeg_bytes(72, 80, seed=i)) for i in range(16)]
    return replace(tiny_run, file_list=write_lists(folder, {"long": [write_lines(folder / "part-000001", lines)]}))


def test_step_previews_and_export_read_alike(run: Run, tmp_path: Path) -> None:
    trainer = run.train(tmp_path, image_logging_steps=6, validation_prompts=[TAGS], **FLAGS)
    assert all(np.isfinite(losses(trainer)))
    trainer._checkpoint = None
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape == [4, 154]
    hidden = trainer.step.conditioning(batch["input_ids"]).hidden
    expected = Conditioning(trainer.bundle.text_encoder, False, 2, 2)(batch["input_ids"]).hidden
    assert hidden.shape == [4, 152, 16]
    np.testing.assert_array_equal(hidden.numpy(), expected.numpy())
    assert text_settings(trainer.previews.pipe) == TextSettings(2, 150)
    for folder in (tmp_path, tmp_path / "checkpoint-6"):
        assert json.loads((folder / "ppsd.json").read_text()) == {"clip_skip": 2, "max_token_length": 150}
    assert text_settings(load_pipeline(str(tmp_path))) == TextSettings(2, 150)
    unet = str(tmp_path / "checkpoint-6" / "unet")
    assert text_settings(load_pipeline(str(run.pipeline), unet)) == TextSettings(2, 150)
    rows = {tuple(row) for row in batch["input_ids"].numpy().tolist()}
    tokenize = TokenizeCaptions(trainer.bundle.tokenizer, 77, 2)
    begin = tokenize("photo of a, ")[:5].tolist()
    assert all(list(row[:5]) == begin or row == tuple(tokenize("").tolist()) for row in rows)


def test_a_cut_run_goes_on_as_if_never_cut(run: Run, tmp_path: Path) -> None:
    flags = {**FLAGS, "train_text_encoder": True, "text_encoder_learning_rate": 1e-3}
    whole = run.train(tmp_path / "a", **flags)
    run.train(tmp_path / "b", **flags)
    shutil.rmtree(tmp_path / "b" / "checkpoint-6")
    again = run.train(tmp_path / "b", dataloader_num_workers=2, **flags)
    assert losses(again) == losses(whole)
    for part in ("unet", "text_encoder"):
        assert_same_weights(weights(tmp_path / "a", part), weights(tmp_path / "b", part))
    before, after = weights(run.pipeline, "text_encoder"), weights(tmp_path / "a", "text_encoder")
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert any(".layers.0." in name for name in changed)
    assert not any(".layers.1." in name for name in changed), "the skipped layer is not trained"


def test_without_these_flags_losses_are_as_ever(run: Run, tmp_path: Path) -> None:
    usual = {"max_token_length": 75, "clip_skip": 1}
    assert losses(run.train(tmp_path / "a", **usual)) == losses(run.train(tmp_path / "b"))
    other = losses(run.train(tmp_path / "c", clip_skip=2))
    assert other != losses(run.train(tmp_path / "d", max_token_length=150)) != losses(run.train(tmp_path / "e"))


def test_another_reading_than_the_pipeline_was_trained_with_is_said(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skipping = replace(run, pipeline=shutil.copytree(run.pipeline, tmp_path / "skipping"))
    (skipping.pipeline / "ppsd.json").write_text('{"clip_skip": 2, "max_token_length": null}')
    said = f"--clip_skip is 1; {skipping.pipeline} was trained with 2"
    skipping.train(tmp_path / "a", do_train=False, clip_skip=2)
    assert said not in caplog.text
    skipping.train(tmp_path / "b", do_train=False, max_token_length=75)
    assert said in caplog.text
    assert "--max_token_length is" not in caplog.text, "75 is the default"
