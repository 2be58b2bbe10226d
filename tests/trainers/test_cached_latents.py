"""A run on cached latents is the run on the images, step for step."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsd.formats.latents import read_latents, write_latents
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.tiny import tiny_text_encoder, tiny_vae
from tests.trainers.conftest import Run, assert_same_weights, losses, weights

_tool = Path(__file__).parents[2] / "tools" / "cache_latents.py"
_spec = importlib.util.spec_from_file_location("cache_latents_tool", _tool)
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

FIXED = {"center_crop": True, "caption_dropout_rate": 0.4}


def cache(run: Run, output: Path, *flags: Any) -> Run:
    """The run on the latents of its images."""
    command = ["--pretrained_model_name_or_path", run.pipeline, "--file_list", run.file_list, "--resolution", 64]
    command += ["--output_path", output, "--device", "cpu", "--num_workers", 0, "--disable_tqdm", *flags]
    assert tool.main([str(flag) for flag in command]) == 0
    (file_list,) = (output / "filelist").glob("*.filelist.list")
    return replace(run, file_list=file_list)


@pytest.fixture(scope="module")
def cached(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return cache(tiny_run, tmp_path_factory.mktemp("latents"))


@pytest.fixture(scope="module")
def with_text(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return cache(tiny_run, tmp_path_factory.mktemp("latents-and-text"), "--cache_text_encoder")


def test_losses_are_those_of_the_run_on_the_images(tiny_run: Run, cached: Run, with_text: Run, tmp_path: Path) -> None:
    images = losses(tiny_run.train(tmp_path / "images", **FIXED))
    assert len(set(images)) == 6
    for name, run in (("latents", cached), ("text", with_text)):
        trainer = run.train(tmp_path / name, **FIXED)
        np.testing.assert_allclose(losses(trainer), images, rtol=1e-5)
        for key, value in weights(tmp_path / "images").items():
            np.testing.assert_allclose(weights(tmp_path / name)[key], value, rtol=1e-3, atol=1e-5, err_msg=key)
    other_crops = losses(tiny_run.train(tmp_path / "random", **{**FIXED, "center_crop": False}))
    assert not np.allclose(other_crops, images, rtol=1e-5)


def test_neither_the_vae_nor_the_text_encoder_runs(with_text: Run, tmp_path: Path) -> None:
    trainer = with_text.train(tmp_path, do_train=False)
    trainer._checkpoint = None
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["moments"].shape == [4, 8, 8, 8]
    assert batch["hidden"].shape == [4, 77, 16]
    assert "pixels" not in batch

    def never(*inputs: Any) -> None:
        raise AssertionError

    trainer.bundle.vae.encode = trainer.bundle.text_encoder.forward = never
    assert np.isfinite(float(trainer.compute_loss(trainer.model, batch)))


def test_dropped_captions_are_the_empty_caption(with_text: Run, tmp_path: Path) -> None:
    trainer = with_text.train(tmp_path, do_train=False, caption_dropout_rate=0.5)
    trainer._checkpoint = None
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.bundle.text_encoder(batch["input_ids"])[0].numpy()
    np.testing.assert_allclose(batch["hidden"].numpy(), expected, rtol=1e-4, atol=1e-5)
    empty = [len(set(row[1:].tolist())) == 1 for row in batch["input_ids"].numpy()]
    assert 0 < sum(empty) < 4


def test_a_cut_run_goes_on_as_if_never_cut(with_text: Run, tmp_path: Path) -> None:
    with_text.train(tmp_path / "a", **FIXED)
    whole = with_text.train(tmp_path / "b", dataloader_num_workers=2, **FIXED)
    shutil.rmtree(tmp_path / "b" / "checkpoint-6")
    again = with_text.train(tmp_path / "b", dataloader_num_workers=1, **FIXED)
    assert losses(again) == losses(whole)
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_buckets_give_whole_batches_of_one_size(tiny_run: Run, tmp_path: Path) -> None:
    """Batches that one bucket fills are those of the run on the images; the three records left over share a crop."""
    sizes = [(140, 66)] * 4 + [(66, 140)] * 4 + [(80, 80)] * 4
    sizes += [(66, 140), (140, 66)] * 4 + [(140, 66), (80, 80), (66, 140)]
    lines = [part_line(f"{i} set", jpeg_bytes(w, h, seed=i)) for i, (w, h) in enumerate(sizes)]
    images = write_lists(tmp_path, {"many": [write_lines(tmp_path / "part-000001", lines)]})
    names = {"min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 32}
    flags = [str(word) for name, value in names.items() for word in (f"--{name}", value)]
    run = replace(tiny_run, file_list=images)
    latents = cache(run, tmp_path / "out", "--enable_bucket", *flags)
    with pytest.raises(ValueError, match=r"in buckets: train with --enable_bucket .*--bucket_reso_steps 32"):
        latents.train(tmp_path / "wrong", **FIXED)
    options = {**FIXED, **names, "enable_bucket": True, "num_lanes": 1, "shuffle_every_n_samples": 0, "max_steps": 8}
    on_images, on_latents = (r.train(tmp_path / str(i), **options) for i, r in enumerate((run, latents)))
    assert len(losses(on_latents)) == 8
    np.testing.assert_allclose(losses(on_latents)[:5], losses(on_images)[:5], rtol=1e-5)
    assert on_latents.loader.tally.used == on_images.loader.tally.used
    shapes = {record.moments.shape for _, record in read_latents(parts_of(latents)[0])}
    assert shapes == {(8, 4, 12), (8, 12, 4), (8, 8, 8)}


def test_previews_show_what_the_latents_keep(cached: Run, tmp_path: Path) -> None:
    cached.train(tmp_path, max_steps=1, image_logging_steps=1)
    assert Image.open(tmp_path / "previews" / "reconstruction.png").size == (4 * 64, 64)
    assert (tmp_path / "previews" / "prompts.txt").read_text().count("set") >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 128}, "--resolution is 128; the latents were cached at 64"),
        ({"random_flip": True}, "--random_flip cannot act on cached latents"),
        ({"color_jitter": 0.1}, "--color_jitter cannot act on cached latents"),
        ({"upscale_small": True}, "--upscale_small cannot act on cached latents"),
        ({"interpolation": "bicubic"}, "--interpolation is bicubic; the latents were cached with lanczos"),
        ({"enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 128}, "--enable_bucket: the cached latents"),
        ({"data_format": "laion400m"}, r"--data_format laion400m: .*part-000001.safetensors is a file of cached"),
    ],
)
def test_flags_that_cannot_act_are_refused(cached: Run, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cached.train(tmp_path, **changes)


def test_another_vae_is_refused_but_not_one_with_another_decoder(cached: Run, tmp_path: Path) -> None:
    tiny_vae(seed=1).save_pretrained(str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"made by another VAE .* --vae_name_or_path"):
        cached.train(tmp_path / "a", vae_name_or_path=tmp_path / "other")
    tuned = tiny_vae(seed=0)
    tuned.decoder.conv_in.bias.set_value(tuned.decoder.conv_in.bias + 1)
    tuned.save_pretrained(str(tmp_path / "tuned"))
    cached.train(tmp_path / "b", vae_name_or_path=tmp_path / "tuned", max_steps=1)


def test_another_text_encoder_is_refused_where_its_states_are_cached(
    cached: Run, with_text: Run, tmp_path: Path
) -> None:
    tiny_text_encoder(seed=1).save_pretrained(str(tmp_path / "other"))
    changes = {"text_encoder_name_or_path": tmp_path / "other", "max_steps": 1}
    with pytest.raises(ValueError, match="text encoder's states were cached with another one"):
        with_text.train(tmp_path / "a", **changes)
    cached.train(tmp_path / "b", **changes)
    with pytest.raises(ValueError, match="--train_text_encoder: the text encoder's states were cached"):
        with_text.train(tmp_path / "a", train_text_encoder=True)
    with pytest.raises(ValueError, match="--model_max_length is 20; the text was cached with 77"):
        with_text.train(tmp_path / "a", model_max_length=20)
    with pytest.raises(ValueError, match="--caption_rule is longest; the text was cached with first"):
        with_text.train(tmp_path / "a", caption_rule="longest")
    trained = cached.train(tmp_path / "c", train_text_encoder=True, max_steps=2)
    assert len(losses(trained)) == 2


def parts_of(run: Run) -> list[Path]:
    return sorted(run.file_list.parents[1].rglob("*.safetensors"))


def test_a_part_that_was_cached_otherwise_stops_the_run_whenever_it_comes(
    cached: Run, with_text: Run, tmp_path: Path
) -> None:
    second = tmp_path / "part-000002.safetensors"
    wrong = {"vae": "0", "resolution": 64}
    write_latents(second, read_latents(parts_of(cached)[1]), wrong)
    mixed = replace(cached, file_list=write_lists(tmp_path, {"mixed": [parts_of(cached)[0], second]}))
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"part-000002.safetensors: cached otherwise than the rest: .*vae \"0\""):
            mixed.train(tmp_path / f"{workers}", dataloader_num_workers=workers)
    sources = {"one": [parts_of(cached)[0]], "two": [parts_of(with_text)[0]]}
    both = replace(cached, file_list=write_lists(tmp_path, sources))
    with pytest.raises(ValueError, match=r"cached otherwise than .*text_encoder"):
        both.train(tmp_path / "out")


def test_images_among_latents_are_refused(tiny_run: Run, cached: Run, tmp_path: Path) -> None:
    image = tiny_run.file_list.parent / "set" / "part-000001"
    sources = replace(cached, file_list=write_lists(tmp_path, {"a": [parts_of(cached)[0]], "b": [image]}))
    with pytest.raises(ValueError, match=r"--file_list mixes cached latents .* and images"):
        sources.train(tmp_path / "out")
    later = replace(cached, file_list=write_lists(tmp_path, {"c": [parts_of(cached)[0], image]}))
    with pytest.raises(ValueError, match=r"part-000001: not a part of cached latents"):
        later.train(tmp_path / "out")
    behind = replace(cached, file_list=write_lists(tmp_path, {"d": [image, parts_of(cached)[0]]}))
    with pytest.raises(ValueError, match="mixes images and cached latents"):
        behind.train(tmp_path / "out")
    with pytest.raises(ValueError, match=r"--data_format latents: .*part-000001 is not a file of cached latents"):
        tiny_run.train(tmp_path / "out", data_format="latents")


def test_damaged_parts_are_counted(cached: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = parts_of(cached)
    cut = tmp_path / "part-000002.safetensors"
    cut.write_bytes(second.read_bytes()[:-5000])
    file_list = write_lists(tmp_path, {"cut": [first, cut]})
    with caplog.at_level("WARNING", logger="ppsd"):
        trainer = replace(cached, file_list=file_list).train(tmp_path / "out")
    assert len(losses(trainer)) == 6
    assert "truncated latents file" in caplog.text
    assert f"{cut}:1" in caplog.text
