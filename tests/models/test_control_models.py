"""ControlNets and T2I-Adapters are told apart by their config.json, and those of other models refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest
from ppdiffusers import ControlNetModel, T2IAdapter

from ppsd.interop.diffusers import write_diffusers
from ppsd.models.bundle import Bundle
from ppsd.models.control_models import kind_of, load_control
from ppsd.models.controlnet import new_t2i_adapter
from ppsd.models.saving import save_component
from tests.tiny import SCHEDULER_CONFIG, shaken, tiny_controlnet, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

compat.apply()


def bundle(**overrides: Any) -> Bundle:
    return Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), tiny_unet(**overrides), SCHEDULER_CONFIG)


def save(folder: Path, model: paddle.nn.Layer, theirs: bool) -> str:
    """In the layout of ppdiffusers or of diffusers."""
    save_component(model, folder / "ours")
    if theirs:
        write_diffusers(folder / "ours", folder / "theirs")
    return str(folder / ("theirs" if theirs else "ours"))


@pytest.mark.parametrize("theirs", [False, True], ids=["paddle", "torch"])
def test_both_kinds_in_both_layouts(tmp_path: Path, theirs: bool) -> None:
    made = bundle()
    for name, model, kind in (
        ("control", shaken(tiny_controlnet(made.unet)), ControlNetModel),
        ("adapter", shaken(new_t2i_adapter(made.unet, 8)), T2IAdapter),
    ):
        path = save(tmp_path / name, model, theirs)
        assert kind_of(path) == kind.__name__
        found = load_control(path, made)
        assert isinstance(found, kind)
        expected = model.state_dict()
        for key, value in found.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), expected[key].numpy(), err_msg=key)


def test_the_average_is_a_variant(tmp_path: Path) -> None:
    made = bundle()
    model = tiny_controlnet(made.unet)
    save_component(model, tmp_path)
    average = {name: value + 1.0 for name, value in model.state_dict().items()}
    save_component(model, tmp_path, weights=average, variant="ema")
    plain, averaged = (load_control(str(tmp_path), made, variant=variant) for variant in (None, "ema"))
    for name, value in averaged.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), plain.state_dict()[name].numpy() + 1, err_msg=name)


def test_light_adapters_have_a_level_more_than_they_name(tmp_path: Path) -> None:
    made = bundle(block_out_channels=(8, 8))
    light = T2IAdapter(channels=[8], num_res_blocks=1, adapter_type="light_adapter")
    assert len(light(paddle.zeros([1, 3, 64, 64]))) == 2
    save_component(light, tmp_path)
    assert isinstance(load_control(str(tmp_path), made), T2IAdapter)
    with pytest.raises(ValueError, match=r"--controlnet: .* are \(\[8, 8\], 8\), and must be \(\[8, 16\], 8\)"):
        load_control(str(tmp_path), bundle(), "--controlnet")


def test_what_is_neither_is_named(tmp_path: Path) -> None:
    save_component(tiny_unet(), tmp_path / "unet")
    with pytest.raises(ValueError, match=r"--controlnet: .*unet holds UNet2DConditionModel; a ControlNet's or"):
        load_control(str(tmp_path / "unet"), bundle(), "--controlnet")
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        kind_of(str(tmp_path))
    with pytest.raises(ValueError, match="--controlnet: no/where is no folder, and not to be had as a hub name: "):
        kind_of("no/where", "--controlnet")
