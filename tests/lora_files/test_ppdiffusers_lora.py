"""ppdiffusers' own load_lora_weights: what it computes with files that ppsd writes, and what it saves itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddle import nn

from ppsd.adapters.places import Place
from ppsd.interop.lora import LoraFile, read_lora, write_lora
from tests.lora_files.deltas import delta_of, random_factors
from tests.tiny import tiny_pipeline

compat.apply()


def layers_of(pipe: Any, kinds: Any = nn.Linear) -> dict[Place, nn.Layer]:
    return {Place("unet", name): layer for name, layer in pipe.unet.named_sublayers() if isinstance(layer, kinds)}


def shape_of(layer: nn.Layer) -> list[int]:
    """In torch's layout."""
    return list(layer.weight.shape[::-1] if isinstance(layer, nn.Linear) else layer.weight.shape)


def random_lora(pipe: Any, kinds: Any = nn.Linear, **options: Any) -> LoraFile:
    made = {}
    for i, (place, layer) in enumerate(layers_of(pipe, kinds).items()):
        factors = random_factors("lora", shape_of(layer), seed=i, **options)
        made[place] = {**factors, "lora_up.weight": 0.1 * factors["lora_up.weight"]}
    return LoraFile(made)


def output(pipe: Any) -> np.ndarray:
    random = np.random.default_rng(0)
    x_t = paddle.to_tensor(random.standard_normal((2, 4, 8, 8)).astype(np.float32))
    states = paddle.to_tensor(random.standard_normal((2, 7, 16)).astype(np.float32))
    with paddle.no_grad():
        return np.asarray(pipe.unet(x_t, paddle.to_tensor([3, 800]), states).sample.numpy())


def merged(lora: LoraFile) -> np.ndarray:
    """The output with the changes in the weights."""
    pipe = tiny_pipeline()
    layers = layers_of(pipe, (nn.Linear, nn.Conv2D))
    for place, factors in lora.layers.items():
        layer = layers[place]
        change = delta_of(factors, shape_of(layer)).astype(np.float32)
        layer.weight.set_value(layer.weight.numpy() + (change.T if isinstance(layer, nn.Linear) else change))
    return output(pipe)


@pytest.mark.parametrize("form", ["ppdiffusers", "diffusers"])
def test_all_linear_layers(tmp_path: Path, form: str) -> None:
    pipe = tiny_pipeline()
    before = output(pipe)
    lora = random_lora(pipe, rank=3, alpha=1.0)
    name = "paddle_lora_weights.safetensors" if form == "ppdiffusers" else "pytorch_lora_weights.safetensors"
    write_lora(tmp_path / name, lora, form)
    pipe.load_lora_weights(str(tmp_path), from_diffusers=form == "diffusers")
    expected = merged(lora)
    assert np.abs(output(pipe) - expected).max() < 1e-5
    assert np.abs(expected - before).max() > 1e-2


def test_what_ppdiffusers_saves_is_read(tmp_path: Path) -> None:
    """From layers of the paths that its scripts use; nn.Linear keeps its weight as [in,out]."""
    pipe = tiny_pipeline()
    lora = random_lora(pipe, alpha=None)
    layers: dict[str, Any] = {}
    for place, factors in lora.layers.items():
        for leaf, short in (("lora_down.weight", "down"), ("lora_up.weight", "up")):
            layers[f"{place.path}.lora.{short}.weight"] = paddle.to_tensor(factors[leaf].T)
    pipe.save_lora_weights(str(tmp_path), unet_lora_layers=layers, to_diffusers=False)
    read = read_lora(tmp_path)
    assert read.form == "ppdiffusers"
    pipe.load_lora_weights(str(tmp_path), from_diffusers=False)
    assert np.abs(output(pipe) - merged(read)).max() < 1e-5


def test_convolutions_go_through_diffusers_form(tmp_path: Path) -> None:
    """Those that ppdiffusers knows LoRA of: all but conv_in and conv_out."""
    pipe = tiny_pipeline()
    lora = random_lora(pipe, nn.Conv2D, alpha=1.0)
    lora.layers = {place: factors for place, factors in lora.layers.items() if "." in place.path}
    with pytest.raises(ValueError, match="convolutions"):
        write_lora(tmp_path / "a.safetensors", lora, "ppdiffusers")
    write_lora(tmp_path / "pytorch_lora_weights.safetensors", lora, "diffusers")
    pipe.load_lora_weights(str(tmp_path), from_diffusers=True)
    assert np.abs(output(pipe) - merged(lora)).max() < 1e-5


def test_text_encoders_are_not_written_since_they_cannot_be_loaded(tmp_path: Path) -> None:
    """The day that this fails, ppdiffusers can."""
    stem = "text_model.encoder.layers"
    places = [Place("text_encoder", f"{stem}.{i}.self_attn.out_proj") for i in range(2)]
    lora = LoraFile({place: random_factors("lora", [16, 16]) for place in places})
    with pytest.raises(ValueError, match=r"loads no text encoders .*2 layers"):
        write_lora(tmp_path / "a.safetensors", lora, "ppdiffusers")
    write_lora(tmp_path / "pytorch_lora_weights.safetensors", lora, "diffusers")
    with pytest.raises(ValueError, match="should be removed"):
        tiny_pipeline().load_lora_weights(str(tmp_path), from_diffusers=True)
