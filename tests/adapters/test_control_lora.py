"""A ControlNet that is trained by adapters: small, frozen but for them, and an ordinary ControlNet once it is saved."""

from __future__ import annotations

from pathlib import Path

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from ppsd.adapters.base import Dropout, Options
from ppsd.adapters.control_lora import ControlLora, new_control_lora
from ppsd.adapters.targets import Wanted
from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.models.controlnet import load_controlnet
from ppsd.models.denoiser import ControlDenoiser, PlainDenoiser
from ppsd.models.saving import load_weights, save_component
from ppsd.types import Condition
from tests.tiny import shaken, tiny_controlnet, tiny_unet

compat.apply()

WANTED = Wanted(2, 4.0, 2, 4.0, "locon")


def make(unet: paddle.nn.Layer, algorithm: str = "lora", features: float = 0.0) -> ControlLora:
    return new_control_lora(tiny_controlnet(unet), WANTED, algorithm, Options(), Dropout(features), seed=0)


def inputs() -> tuple[paddle.Tensor, paddle.Tensor, Condition]:
    random = np.random.default_rng(0)
    x_t, hidden, control = (
        paddle.to_tensor(random.standard_normal(shape).astype(np.float32))
        for shape in ((2, 4, 8, 8), (2, 77, 16), (2, 3, 64, 64))
    )
    return x_t, paddle.to_tensor([3, 800]), Condition(hidden, control=control)


def frozen(unet: paddle.nn.Layer) -> paddle.nn.Layer:
    for parameter in unet.parameters():
        parameter.stop_gradient = True
    return unet


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
def test_it_begins_as_the_base(algorithm):
    unet = frozen(shaken(tiny_unet()))
    with paddle.no_grad():
        base = PlainDenoiser(unet)(*inputs()).numpy()
        found = ControlDenoiser(unet, make(unet, algorithm))(*inputs()).numpy()
    np.testing.assert_array_equal(found, base)


def test_adapters_and_own_layers_learn_and_the_copy_does_not():
    unet = frozen(shaken(tiny_unet()))
    lora = shaken(make(unet))
    before = {name: value.numpy() for name, value in lora.controlnet.state_dict().items()}
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=lora.parameters())
    (ControlDenoiser(unet, lora)(*inputs()) - 1.0).square().mean().backward()
    for name, parameter in lora.named_parameters():
        assert parameter.grad is not None, name
        assert np.abs(parameter.grad.numpy()).max() > 0, name
    optimizer.step()
    after = lora.controlnet.state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not np.array_equal(after[name].numpy(), value)}
    assert moved == {"controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"}
    copied = sum(value.size for name, value in before.items() if name.split(".")[0] not in moved)
    adapters = sum(int(p.size) for name, p in lora.named_parameters() if name.startswith("lora_"))
    assert 0 < adapters < copied / 3


def test_saved_it_is_a_controlnet(tmp_path: Path):
    """And in training it goes on as if nothing had been saved."""
    unet = shaken(tiny_unet())
    lora = shaken(make(unet))
    before = {name: value.numpy() for name, value in lora.controlnet.state_dict().items()}
    with paddle.no_grad():
        expected = ControlDenoiser(unet, lora)(*inputs()).numpy()
        plain = PlainDenoiser(unet)(*inputs()).numpy()
        with lora.fused() as controlnet:
            save_component(controlnet, tmp_path)
        found = ControlDenoiser(unet, load_controlnet(str(tmp_path), unet))(*inputs()).numpy()
        again = ControlDenoiser(unet, lora)(*inputs()).numpy()
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(expected - plain).max() > 1e-2
    np.testing.assert_array_equal(again, expected)
    for name, value in before.items():
        np.testing.assert_array_equal(lora.controlnet.state_dict()[name].numpy(), value)


def test_a_checkpoint_holds_what_is_trained(tmp_path: Path):
    unet = shaken(tiny_unet())
    lora, other = shaken(make(unet)), make(unet)
    save_component(lora, tmp_path)
    saved = load_file(tmp_path / "weights.safetensors")
    assert saved["lora_mid_block_resnets_0_conv1.alpha"] == 4
    assert saved["lora_mid_block_resnets_0_conv1.lora_down.weight"].shape == (2, 16, 3, 3)
    assert not any(name.startswith(("down_blocks", "mid_block", "conv_in")) for name in saved)
    load_weights(other, SafetensorsFile(tmp_path / "weights.safetensors"))
    with paddle.no_grad():
        one, same = (ControlDenoiser(unet, net)(*inputs()).numpy() for net in (lora, other))
    np.testing.assert_array_equal(one, same)


def test_adapters_drop_out_in_training_alone():
    unet = shaken(tiny_unet())
    lora = shaken(make(unet, features=0.5))
    with paddle.no_grad():
        lora.train()
        one, other = (ControlDenoiser(unet, lora)(*inputs()).numpy() for _ in range(2))
        assert np.abs(one - other).max() > 1e-4
        lora.eval()
        one, other = (ControlDenoiser(unet, lora)(*inputs()).numpy() for _ in range(2))
        np.testing.assert_array_equal(one, other)


def test_own_layers_get_no_adapter():
    controlnet, wanted = tiny_controlnet(tiny_unet()), Wanted(2, 4.0, 2, 4.0, "", [r"^controlnet_mid_block"])
    with pytest.raises(ValueError, match="no layer in what the ControlNet has of the UNet"):
        new_control_lora(controlnet, wanted, "lora", Options(), Dropout(), seed=0)


def test_adapters_stay_float32_where_half_precision_is_trained_with():
    lora = make(tiny_unet())
    marked = {name for name, layer in lora.named_sublayers() if not getattr(layer, "_cast_to_low_precision", True)}
    assert {name.split(".")[0] for name in marked} == {n for n, _ in lora.named_children() if n.startswith("lora_")}
