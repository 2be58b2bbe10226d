"""A run on latents that were cached before it is the run on the images, step for step; so is one on cached text."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.formats.array_store import unpack_array
from ppsd.trainers import folder_cache_latents
from ppsd.trainers.latent_cache import Encoder
from tests.images import jpeg_bytes
from tests.tiny import tiny_vae
from tests.trainers.conftest import Run, losses, weights
from tests.trainers.image_folders import DISK, FolderRun, files, write_folder

BUCKETS = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 32}


@pytest.fixture
def folder(tiny_run: Run, tmp_path: Path) -> FolderRun:
    return FolderRun(tiny_run, write_folder(tmp_path / "images", [(72, 80), (80, 66), (64, 64)] * 3))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass through the VAE had."""
    sizes: list[int] = []

    class Counting(Encoder):
        def start(self, samples: list) -> Any:
            sizes.append(len(samples))
            return super().start(samples)

    monkeypatch.setattr(folder_cache_latents, "Encoder", Counting)
    return sizes


def test_losses_are_those_of_the_run_on_the_images(folder: FolderRun, tmp_path: Path, encoded: list[int]) -> None:
    """With mirrored images and dropped captions, whether in memory or on a disk, by any number of workers."""
    images = folder.train(tmp_path / "images-out", center_crop=True, random_flip=True)
    memory = folder.train(tmp_path / "memory", cache_latents=True, random_flip=True, vae_batch_size=2)
    assert encoded == [2, 2] * 4 + [1, 1]
    disk = folder.train(tmp_path / "disk", **DISK, random_flip=True, dataloader_num_workers=2)
    assert len(set(losses(images))) == len(losses(images)) == 6
    for name, trainer in (("memory", memory), ("disk", disk)):
        np.testing.assert_allclose(losses(trainer), losses(images), rtol=1e-5)
        for key, value in weights(tmp_path / "images-out").items():
            np.testing.assert_allclose(weights(tmp_path / name)[key], value, rtol=1e-3, atol=1e-5, err_msg=key)
    assert len(files(tmp_path / "disk")) == 2 * 9
    unmirrored = folder.train(tmp_path / "plain", center_crop=True)
    assert not np.allclose(losses(unmirrored), losses(images), rtol=1e-5)
    for other in ({"random_flip": True}, {}):  # crops at random places
        assert not np.allclose(losses(folder.train(tmp_path / "random", **other)), losses(images), rtol=1e-5)
        shutil.rmtree(tmp_path / "random")


def test_buckets(folder: FolderRun, tmp_path: Path) -> None:
    write_folder(folder.path, [(140, 66), (66, 140), (30, 31)] * 2, first=20)
    images = folder.train(tmp_path / "a", center_crop=True, random_flip=True, **BUCKETS)
    cached = folder.train(tmp_path / "b", cache_latents=True, random_flip=True, **BUCKETS)
    np.testing.assert_allclose(losses(cached), losses(images), rtol=1e-5)
    assert cached.loader.tally.repeated == images.loader.tally.repeated > 0


def test_a_run_goes_on_with_the_cache_or_without(folder: FolderRun, tmp_path: Path, caplog: Any) -> None:
    whole = folder.train(tmp_path / "whole", center_crop=True, random_flip=True)
    for first, second in (({"center_crop": True}, {"cache_latents": True}), (DISK, {"center_crop": True})):
        output = tmp_path / "cut"
        folder.train(output, random_flip=True, **first)
        shutil.rmtree(output / "checkpoint-6")
        with caplog.at_level(logging.WARNING):
            again = folder.train(output, random_flip=True, **second)
        np.testing.assert_allclose(losses(again), losses(whole), rtol=1e-5)
        assert "goes on otherwise" not in caplog.text
        shutil.rmtree(output)


def test_only_what_has_changed_is_encoded(folder: FolderRun, tmp_path: Path, encoded: list[int]) -> None:
    shared = {**DISK, "latents_cache_dir": tmp_path / "cache", "vae_batch_size": 9, "do_train": False}
    folder.train(tmp_path / "a", **shared)
    assert encoded == [9]
    folder.train(tmp_path / "b", **shared)
    assert encoded == [9], "all there"
    (folder.path / "03.jpg").write_bytes(jpeg_bytes(72, 80, seed=99))
    shutil.copy(folder.path / "04.jpg", folder.path / "04-again.jpg")
    (folder.path / "04-again.txt").write_text("the same picture")
    folder.train(tmp_path / "c", **shared)
    assert encoded == [9, 1], "one has changed, one is there twice"
    tiny_vae(seed=1).save_pretrained(str(tmp_path / "other"))
    folder.train(tmp_path / "d", **shared, vae_name_or_path=tmp_path / "other")
    assert encoded == [9, 1, 9], "ten files, nine pictures"
    folder.train(tmp_path / "e", **shared, interpolation="bicubic")
    folder.train(tmp_path / "f", **shared, resolution=32)
    assert encoded == [9, 1, 9, 9, 9]
    folder.train(tmp_path / "g", **shared, vae_slicing=True)
    assert len(encoded) == 5, "the same latents"
    folder.train(tmp_path / "h", **shared, vae_tiling=True)
    assert len(encoded) == 6


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-100], "empty": b"", "changed": data[:-1] + bytes([data[-1] ^ 1])}[how])


def test_damaged_files_are_encoded_anew(folder: FolderRun, tmp_path: Path, encoded: list[int], caplog: Any) -> None:
    flags = {**DISK, "do_train": False}
    folder.train(tmp_path, **flags)
    victims = dict(zip(("cut", "empty", "changed"), files(tmp_path)))
    good = {path: path.read_bytes() for path in victims.values()}
    for how, path in victims.items():
        damage(path, how)
    encoded.clear()
    with caplog.at_level(logging.WARNING):
        folder.train(tmp_path, **flags)
    assert encoded == [3]
    assert caplog.text.count("the image is encoded anew") == 3
    for path, data in good.items():
        assert f"{path}: " in caplog.text
        np.testing.assert_allclose(unpack(path), unpack_array(data, path.stem), rtol=1e-4, atol=1e-5)


def unpack(path: Path) -> np.ndarray:
    return unpack_array(path.read_bytes(), path.stem)


def test_a_file_that_is_damaged_later_is_counted(folder: FolderRun, tmp_path: Path) -> None:
    """Nothing in the data workers could encode it anew."""
    trainer = folder.train(tmp_path, **DISK, do_train=False)
    damage(files(tmp_path)[0], "changed")
    files(tmp_path)[1].unlink()
    trainer._checkpoint = None
    for _ in trainer.get_train_dataloader():
        pass
    assert trainer.loader.tally.counts == {"corrupt latents": 2}


def test_a_folder_that_cannot_be_written_is_named(folder: FolderRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    with pytest.raises(ValueError, match=r"--latents_cache_dir .*: .*Not a directory: '.*/file"):
        folder.train(tmp_path / "out", **DISK, latents_cache_dir=tmp_path / "file")
