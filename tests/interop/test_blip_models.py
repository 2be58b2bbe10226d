"""BLIP models from folders of Paddle and of transformers compute the same, and what real transformers computes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from ppsd.interop.blip import CLIP_MEAN, CLIP_STD, Look, load_blip
from ppsd.interop.blip_speaker import BlipSpeaker, Speech, shown
from tests.images import noise_image
from tests.interop.environment import CannotInstall, interpreter, run_script
from tests.tiny_blip import BEGIN, PREPROCESSOR, SIDE, blip_folder, tiny_blip, torch_weights

FLAG = "--pretrained_model_name_or_path"
PICTURES = np.random.default_rng(0).standard_normal((8, 3, SIDE, SIDE)).astype(np.float32)
SENTENCES = np.tile([BEGIN, 5, 9], (8, 1))


@paddle.no_grad()
def logits(model: Any) -> np.ndarray:
    """[B,L,V]"""
    seen = model.vision_model(paddle.to_tensor(PICTURES))[0]
    found: np.ndarray = model.text_decoder(paddle.to_tensor(SENTENCES), encoder_hidden_states=seen).logits.numpy()
    return found


@pytest.mark.parametrize("torch", [False, True], ids=["paddle", "torch"])
def test_a_folder_of_either_layout_is_the_model(torch: bool, tmp_path: Path) -> None:
    blip = load_blip(str(blip_folder(tmp_path / "blip", torch)), FLAG)
    np.testing.assert_array_equal(logits(blip.model), logits(tiny_blip()))
    assert not blip.model.training
    assert blip.look == Look(SIDE, CLIP_MEAN, CLIP_STD, 3)
    assert blip.tokenizer("A Cat on the mat.")["input_ids"][1:-1] == [5, 9, 8, 6, 11, 19]


def test_weights_as_paddle_saves_them(tmp_path: Path) -> None:
    """model_state.pdparams, which the stack's own hub gives."""
    folder = blip_folder(tmp_path / "blip")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"{FLAG}: cannot load BlipForConditionalGeneration"):
        load_blip(str(folder), FLAG)
    tiny_blip().save_pretrained(str(folder), safe_serialization=False)
    assert (folder / "model_state.pdparams").is_file()
    np.testing.assert_array_equal(logits(load_blip(str(folder), FLAG).model), logits(tiny_blip()))


def test_half_precision_and_several_files_are_read(tmp_path: Path) -> None:
    folder = blip_folder(tmp_path / "blip", torch=True)
    weights = {name: value.astype(np.float16) for name, value in torch_weights(tiny_blip()).items()}
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = folder / f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, file, {"format": "pt"})
    assert 1e-6 < np.abs(logits(load_blip(str(folder), FLAG).model) - logits(tiny_blip())).max() < 0.02


def test_a_head_that_is_not_the_table_of_words_stays_apart(tmp_path: Path) -> None:
    folder = blip_folder(tmp_path / "blip", torch=True)
    weights = load_file(folder / "model.safetensors")
    words = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    weights["text_decoder.cls.predictions.decoder.weight"] = words * 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found, bias = logits(load_blip(str(folder), FLAG).model), weights["text_decoder.cls.predictions.bias"]
    np.testing.assert_allclose(found - bias, 2 * (logits(tiny_blip()) - bias), rtol=1e-4, atol=1e-4)


def drop(folder: Path, name: str) -> None:
    (folder / name).unlink()


def edit_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


def edit_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


CUT = "vision_model.post_layernorm.bias"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: drop(folder, "config.json"), "has no config.json"),
        (lambda folder: drop(folder, "vocab.txt"), "has no vocab.txt"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: no JSON"),
        (lambda folder: edit_config(folder, model_type="clip"), "a model 'clip'; BLIP's is 'blip'"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "not a whole safetensors file"),
        (lambda folder: edit_weights(folder, lambda w: w.pop(CUT)), f"lacks 1 weights, e.g. {CUT}"),
        (lambda folder: edit_weights(folder, lambda w: w.update({CUT: w[CUT][:3]})), f"{CUT} is \\[3\\]"),
        (
            lambda folder: edit_weights(folder, lambda w: [w.pop(name) for name in list(w) if ".cls." in name]),
            "no decoder that writes captions",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pickled .*safe_serialization=True",
        ),
    ],
)
def test_what_cannot_be_used_is_named(damage: Any, said: str, tmp_path: Path) -> None:
    folder = blip_folder(tmp_path / "blip", torch=True)
    damage(folder)
    with pytest.raises(ValueError, match=said):
        load_blip(str(folder), FLAG)


def test_pickled_weights_beside_others_are_not_opened(tmp_path: Path) -> None:
    folder = blip_folder(tmp_path / "blip", torch=True)
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    np.testing.assert_array_equal(logits(load_blip(str(folder), FLAG).model), logits(tiny_blip()))
    with pytest.raises(ValueError, match="is a file; a folder"):
        load_blip(str(folder / "pytorch_model.bin"), FLAG)


def bicubic(pixels: np.ndarray, side: int) -> np.ndarray:
    """Rounded after each axis, widths first: Keys' kernel (a = -0.5), widened where the image shrinks."""
    for axis in (1, 0):
        count = pixels.shape[axis]
        scale = count / side
        width = max(scale, 1.0)
        centres = (np.arange(side) + 0.5) * scale
        x = np.abs((np.arange(count)[None] + 0.5 - centres[:, None]) / width)
        weights = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        weights /= weights.sum(axis=1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
        pixels = np.clip(np.floor(pixels + 0.5), 0, 255)
    return pixels


@pytest.mark.parametrize("size", [(90, 41), (67, 21)])
def test_pictures_are_shown_as_blip_was_trained(size: tuple[int, int]) -> None:
    image = noise_image(*size, seed=3)
    found = shown(image, Look(SIDE))
    levels = bicubic(np.asarray(image, np.float64), SIDE)
    expected = (levels / 255 - CLIP_MEAN) / CLIP_STD
    assert found.dtype == np.float32
    assert found.shape == (3, SIDE, SIDE)
    one_level = 1 / 255 / np.array(CLIP_STD)
    difference = np.abs(found.transpose(1, 2, 0) - expected) / one_level
    assert difference.max() < 2.01, "rounded in each of two passes"
    assert (difference > 0.01).mean() < 0.02


def test_the_folder_says_how_pictures_are_shown(tmp_path: Path) -> None:
    folder = blip_folder(tmp_path / "blip", torch=True)
    said = {**PREPROCESSOR, "image_mean": [0.5, 0.25, 0.0], "image_std": [1, 0.5, 0.25], "resample": 0}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    look = load_blip(str(folder), FLAG).look
    grey = shown(Image.new("RGB", (50, 30), (51, 102, 153)), look)
    np.testing.assert_allclose(grey[:, 0, 0], [0.2 - 0.5, (0.4 - 0.25) / 0.5, 0.6 / 0.25], atol=1e-6)
    steps = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    nearest = np.rint((shown(steps, look).transpose(1, 2, 0) * look.std + look.mean) * 255)
    np.testing.assert_array_equal(nearest, np.asarray(steps)[1::2, 1::2])


IMAGE = noise_image(90, 41, seed=3)
PROMPTS = ["", "large red"]
SEARCHES = [
    {"max_length": 12, "min_length": 4, "num_beams": 1, "do_sample": False},
    {"max_length": 12, "min_length": 4, "num_beams": 3, "do_sample": False},
    {"max_length": 9, "min_length": 0, "num_beams": 5, "do_sample": False},
    {"max_length": 9, "min_length": 6, "num_beams": 2, "do_sample": False},
]


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, what transformers saves of it, and what it makes of the pictures."""
    try:
        interpreter()
    except CannotInstall as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NO TRANSFORMERS: these tests need pip to reach its package index: {error}")
    home = tmp_path_factory.mktemp("transformers")
    folder = blip_folder(home / "blip", torch=True)
    save_file({"pictures": PICTURES, "image": np.asarray(IMAGE)}, home / "given.safetensors")
    job = {"folder": str(folder), "pictures": str(home / "given.safetensors"), "saved": str(home / "saved")}
    job = {**job, "output": str(home / "made.safetensors"), "prompts": PROMPTS, "searches": SEARCHES}
    run_script("blip.py", [job], home)
    for name in ("vocab.txt", "preprocessor_config.json"):
        shutil.copy(folder / name, home / "saved" / name)
    return home


@pytest.mark.timeout(1800)  # the first test of this kind makes the environment
@pytest.mark.parametrize("folder", ["blip", "saved"])
def test_transformers_computes_and_says_the_same(transformers: Path, folder: str) -> None:
    blip = load_blip(str(transformers / folder), FLAG)
    made = load_file(transformers / "made.safetensors")
    np.testing.assert_allclose(logits(blip.model), made["logits"], atol=2e-5)
    np.testing.assert_allclose(shown(IMAGE, blip.look), made["shown"][0], atol=1e-6)
    theirs = iter(json.loads((transformers / "captions.json").read_text()))
    for prompt, options in itertools.product(PROMPTS, SEARCHES):
        speech = Speech(options["max_length"], options["min_length"], options["num_beams"], prompt=prompt)
        captions = BlipSpeaker(blip, speech).captions(PICTURES, [""] * 8)
        assert captions == [" ".join(text.split()) for text in next(theirs)], (prompt, options)
        assert len(set(captions)) > 1, "pictures must matter for this to show anything"
        assert all(caption.startswith(prompt) for caption in captions)
