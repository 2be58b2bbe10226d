from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest
from ppdiffusers import AutoencoderKL, DDIMScheduler
from ppdiffusers.transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer

from ppsd.data.demo import CAPTIONS, COLORS, HELD_OUT, NAMES, SHAPES, make_caption, make_example, nearest_color
from ppsd.models.bundle import Bundle, load_bundle
from ppsd.models.latents import encode, reconstruct

compat.apply()

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "examples" / "stable_diffusion" / "tiny_pipeline"
_spec = importlib.util.spec_from_file_location("make_demo_model", ROOT / "tools" / "make_demo_model.py")
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    """What the demo trains on: the shipped parts and a random UNet of configs/unet/tiny.json."""
    paddle.seed(0)
    return load_bundle(str(SHIPPED), unet=str(ROOT / "configs" / "unet" / "tiny.json"), model_max_length=77)


@pytest.fixture(scope="module")
def pictures() -> paddle.Tensor:
    """uint8 [48,3,64,64], none of them trained on."""
    arrays = [np.asarray(make_example(i, seed=77).image).transpose(2, 0, 1) for i in range(48)]
    return paddle.to_tensor(np.stack(arrays))


def test_the_shipped_parts_are_small_and_hold_no_unet() -> None:
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 3_000_000
    assert {file.suffix for file in files} == {".json", ".txt", ".safetensors"}
    assert not (SHIPPED / "unet").exists()
    assert "unet" in json.loads((SHIPPED / "model_index.json").read_text())
    assert not [
        file for file in files if file.suffix == ".json" and re.search(r"/(tmp|home|root|work)/", file.read_text())
    ]


def test_the_stack_loads_them_without_help() -> None:
    assert AutoencoderKL.from_pretrained(str(SHIPPED / "vae")).dtype == paddle.float32
    assert CLIPTextModel.from_pretrained(str(SHIPPED / "text_encoder")).config.hidden_size == 64
    assert AutoTokenizer.from_pretrained(str(SHIPPED / "tokenizer")).model_max_length == 77
    scheduler = DDIMScheduler.from_pretrained(str(SHIPPED / "scheduler"))
    assert float(scheduler.betas[0]) == pytest.approx(0.00085)
    assert float(scheduler.betas[-1]) == pytest.approx(0.012)


def test_colors_survive_the_vae(tiny: Bundle, pictures: paddle.Tensor) -> None:
    decoded = (reconstruct(tiny.vae, pictures) * 255).round().numpy().transpose(0, 2, 3, 1)
    before = nearest_color(pictures.numpy().transpose(0, 2, 3, 1))
    assert (nearest_color(decoded) == before).mean() > 0.98
    for color in range(len(COLORS)):
        assert (nearest_color(decoded) == before)[before == color].mean() > 0.96


def test_scaled_latents_have_unit_variance(tiny: Bundle, pictures: paddle.Tensor) -> None:
    noise = paddle.to_tensor(np.random.default_rng(0).standard_normal((48, 4, 8, 8), dtype=np.float32))
    latents = encode(tiny.vae, pictures, noise)
    assert latents.shape == [48, 4, 8, 8]
    assert float(latents.std()) == pytest.approx(1.0, abs=0.05)
    assert float(latents.mean().abs()) < 0.3


def read(tiny: Bundle, captions: list[str]) -> np.ndarray:
    """The values nearest to what the encoder says in the middle of the padding and, below, at its end: int64 [2B,3]."""
    with paddle.no_grad():
        hidden = tiny.text_encoder(tool.encode(tiny.tokenizer, captions))[0].numpy()
    hidden = np.concatenate([hidden[:, 40], hidden[:, 76]])
    return np.stack([(hidden @ table.numpy().T).argmax(1) for table in tool.attribute_codes(64, seed=0)], axis=1)


def test_the_text_encoder_tells_the_shape_from_the_background_for_pairs_it_never_read(tiny: Bundle) -> None:
    wanted = [(s, c, b) for s in SHAPES for c, b in HELD_OUT for _ in CAPTIONS]
    captions = [make_caption(s, c, b, i) for s in SHAPES for c, b in HELD_OUT for i in range(len(CAPTIONS))]
    labels = [(list(SHAPES).index(s), NAMES.index(c), NAMES.index(b)) for s, c, b in wanted]
    assert not {(c, b) for c, b in tool.COLOR_PAIRS} & set(HELD_OUT)
    assert (read(tiny, captions) == np.array(labels * 2)).all()


def test_it_reads_captions_that_say_only_a_part(tiny: Bundle) -> None:
    silent = tool.NOT_SAID
    labels = [(silent, silent, silent), (0, NAMES.index("pink"), silent), (silent, silent, NAMES.index("green"))]
    assert (read(tiny, ["", "a pink circle", "a green background"]) == np.array(labels * 2)).all()


def test_the_tokenizer_takes_words_whole_and_any_text(tiny: Bundle) -> None:
    tokenizer = tiny.tokenizer
    ids = tokenizer("An orange star on a purple background")["input_ids"]
    assert len(ids) == 9
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    for text in ("一个红色的圆", "größe 4 %", "🙂"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.eos_token_id not in ids[:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_merges_are_learned_by_frequency() -> None:
    assert tool.learn_merges(["low", "low", "lot"]) == [("l", "o"), ("lo", "w</w>"), ("lo", "t</w>")]
    assert tool.merge(["a", "a", "a"], ("a", "a")) == ["aa", "a"]


def test_the_tool_writes_the_shipped_layout_and_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--text_steps", "1", "--vae_steps", "2", "--batch_size", "2"]
    monkeypatch.setattr("sys.argv", ["make_demo_model.py", "--output_path", str(tmp_path), *flags])
    tool.main()
    shipped = {str(file.relative_to(SHIPPED)) for file in SHIPPED.rglob("*") if file.is_file()}
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == shipped
    for name in shipped - {"vae/config.json"}:
        if not name.endswith(".safetensors"):
            assert (tmp_path / name).read_text(encoding="utf-8") == (SHIPPED / name).read_text(encoding="utf-8"), name


def test_training_repeats_and_moves(tmp_path: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(str(SHIPPED / "tokenizer"))
    encoders = [tool.train_text_encoder(tokenizer, seed=3, steps=steps, batch_size=4) for steps in (3, 3, 1)]
    weights = [encoder.state_dict()["text_model.final_layer_norm.weight"].numpy() for encoder in encoders]
    assert (weights[0] == weights[1]).all()
    assert not (weights[0] == weights[2]).all()
    vaes = [tool.train_vae(seed=3, steps=2, batch_size=2) for _ in range(2)]
    assert vaes[0].config.scaling_factor == vaes[1].config.scaling_factor
    assert (vaes[0].encoder.conv_in.weight.numpy() == vaes[1].encoder.conv_in.weight.numpy()).all()
