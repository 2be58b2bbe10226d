"""Hidden states that were cached before a run: the run is the same, and the text encoder does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.tiny import tiny_text_encoder
from tests.trainers.conftest import Run, losses
from tests.trainers.image_folders import DISK, FolderRun, files, write_folder

TEXT = {"cache_text_encoder_outputs": True}
ON_DISK = {"cache_text_encoder_outputs_to_disk": True, "do_train": False}


@pytest.fixture
def folder(tiny_run: Run, tmp_path: Path) -> FolderRun:
    return FolderRun(tiny_run, write_folder(tmp_path / "images", [(72, 80)] * 6))


def batches(trainer: StableDiffusionTrainer) -> list[Any]:
    """Of an epoch."""
    trainer._checkpoint = None
    return list(trainer.get_train_dataloader())


def test_batches_are_those_of_the_run_that_encodes_captions(folder: FolderRun, tmp_path: Path) -> None:
    """What is done to all captions alike is done before; of several captions one is chosen; some are dropped."""
    (folder.path / "02.txt").write_text("a\na longer caption, blue")
    words = {"caption_prefix": "a photo of", "trigger_words": "red", "caption_rule": "longest", "do_train": False}
    plain = batches(folder.train(tmp_path / "plain", **words))
    trainer = folder.train(tmp_path / "text", **words, **TEXT)
    with_text = batches(trainer)
    with_both = batches(folder.train(tmp_path / "both", **words, **TEXT, **DISK, dataloader_num_workers=1))
    assert len(plain) == len(with_text) == len(with_both) == 2
    for one, text, both in zip(plain, with_text, with_both):
        expected = trainer.bundle.text_encoder(one["input_ids"])[0].numpy()
        np.testing.assert_array_equal(text["pixels"].numpy(), one["pixels"].numpy())
        assert both["moments"].shape == [4, 8, 8, 8]
        for batch in (text, both):
            np.testing.assert_array_equal(batch["input_ids"].numpy(), one["input_ids"].numpy())
            np.testing.assert_allclose(batch["hidden"].numpy(), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(batch["seed"], one["seed"])
    rows = np.concatenate([batch["input_ids"].numpy() for batch in plain])
    empty = (rows[:, 1:] == rows[:, -1:]).all(axis=1)
    assert 0 < empty.sum() < 8


def test_losses_are_those_of_the_run_that_encodes_captions(folder: FolderRun, tmp_path: Path) -> None:
    plain = losses(folder.train(tmp_path / "plain", center_crop=True))
    trainer = folder.train(tmp_path / "text", **TEXT, cache_latents=True)
    np.testing.assert_allclose(losses(trainer), plain, rtol=1e-5)


def test_the_text_encoder_does_not_run(folder: FolderRun, tmp_path: Path) -> None:
    trainer = folder.train(tmp_path, **TEXT, do_train=False)

    def never(*inputs: Any, **kwargs: Any) -> None:
        raise AssertionError

    trainer.bundle.text_encoder.forward = never
    assert np.isfinite(float(trainer.compute_loss(trainer.model, batches(trainer)[0])))


def test_what_the_states_depend_on_is_in_their_keys(folder: FolderRun, tmp_path: Path) -> None:
    shared = {**ON_DISK, "latents_cache_dir": tmp_path / "cache"}
    counts = []
    tiny_text_encoder(seed=1).save_pretrained(str(tmp_path / "other"))
    for number, flags in enumerate(
        ({}, {}, {"clip_skip": 2}, {"clip_skip": 1}, {"max_token_length": 150}, {"text_encoder_name_or_path": "other"})
    ):
        changes = {name: tmp_path / value if name.endswith("path") else value for name, value in flags.items()}
        trainer = folder.train(tmp_path / str(number), **shared, **changes)
        counts.append(len(files(tmp_path, "text")))
    assert counts == [7, 7, 14, 14, 21, 28], "six captions and the empty one"
    trainer = folder.train(tmp_path / "long", **shared, max_token_length=150, clip_skip=2, caption_dropout_rate=1.0)
    assert batches(trainer)[0]["hidden"].shape == [4, 152, 16]


def test_a_damaged_file_is_encoded_anew(folder: FolderRun, tmp_path: Path, caplog: Any) -> None:
    folder.train(tmp_path, **ON_DISK)
    victim = files(tmp_path, "text")[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    with caplog.at_level("WARNING"):
        folder.train(tmp_path, **ON_DISK)
    assert f"{victim}: not a whole file" in caplog.text
    assert "the caption is encoded anew" in caplog.text
    caplog.clear()
    folder.train(tmp_path, **ON_DISK)
    assert "anew" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**TEXT, "shuffle_caption": True}, "--shuffle_caption makes another caption"),
        ({**TEXT, "caption_tag_dropout_rate": 0.1}, "--caption_tag_dropout_rate makes another caption"),
        ({**TEXT, "caption_rule": "random"}, "--caption_rule makes another caption"),
        ({**TEXT, "train_text_encoder": True}, "--cache_text_encoder_outputs: this run trains text_encoder"),
        ({"cache_latents": True, "color_jitter": 0.1}, "--color_jitter cannot act on latents"),
        ({"cache_latents": True, "vae_batch_size": 0}, "--vae_batch_size is 0"),
        ({"cache_latents": True, "latents_cache_dir": "x"}, "--latents_cache_dir: nothing is kept there"),
    ],
)
def test_flags_that_exclude_each_other(folder: FolderRun, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder.train(tmp_path, **changes)


@pytest.mark.parametrize("flag", ["cache_latents", "cache_text_encoder_outputs"])
def test_streams_have_their_own_tool(tiny_run: Run, tmp_path: Path, flag: str) -> None:
    with pytest.raises(ValueError, match=rf"--{flag} is for image folders .* run tools/cache_latents.py"):
        tiny_run.train(tmp_path, **{flag: True})
