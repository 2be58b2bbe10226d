"""What is counted without allocating is what paddle has: weights, and tensors that it saves for the backward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import paddle
import pytest
from ppdiffusers import UNet2DConditionModel
from ppdiffusers.models.resnet import ResnetBlock2D
from ppdiffusers.models.transformer_2d import Transformer2DModel

from ppsd.models.footprint import TextSize, numbers, read_footprint, shapes_of
from ppsd.models.footprint_unet import kept_by_unet, resnet, transformer
from tests.tiny import TEXT_CONFIG, UNET_CONFIG, tiny_text_encoder, tiny_unet


def saved_numbers(compute: Callable[[], Any], weights: list[paddle.Tensor]) -> int:
    """Of all tensors that paddle keeps for the backward pass, but the weights and the statistics of norms."""
    found: dict[int, int] = {}

    def pack(tensor: paddle.Tensor) -> paddle.Tensor:
        found[tensor.data_ptr()] = int(tensor.size)
        return tensor

    own = {weight.data_ptr() for weight in weights}
    with paddle.autograd.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    assert result is not None
    return sum(size for pointer, size in found.items() if pointer not in own)


def random(*shape: int) -> paddle.Tensor:
    value = paddle.randn(shape)
    value.stop_gradient = False
    return value


@pytest.mark.parametrize("out_channels", [32, 64])
def test_a_resnet_keeps_what_the_formula_says(out_channels: int) -> None:
    layer = ResnetBlock2D(in_channels=32, out_channels=out_channels, temb_channels=128, groups=8)
    x, temb = random(2, 32, 16, 16), random(2, 128)
    measured = saved_numbers(lambda: layer(x, temb), layer.parameters())
    assert measured == pytest.approx(2 * resnet("", layer, 256).plain, rel=0.01)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("linear", [False, True])
def test_a_transformer_keeps_what_the_formula_says(linear: bool, blocks: int) -> None:
    layer = Transformer2DModel(
        4, 8, 32, num_layers=blocks, cross_attention_dim=24, norm_num_groups=8, use_linear_projection=linear
    )
    x, hidden = random(2, 32, 16, 16), random(2, 7, 24)
    measured = saved_numbers(lambda: layer(x, encoder_hidden_states=hidden), layer.parameters())
    counted = transformer("", layer, 256, 7)
    assert counted.softmax == blocks * 4 * 256 * (256 + 7)
    assert measured == pytest.approx(2 * (counted.plain + counted.softmax), rel=0.02)


def test_a_unet_keeps_what_the_formulas_say(tmp_path: Path) -> None:
    file = tmp_path / "unet.json"
    file.write_text(json.dumps({**UNET_CONFIG, "block_out_channels": [16, 32]}), encoding="utf-8")
    unet = tiny_unet(block_out_channels=(16, 32))
    x, t, hidden = paddle.randn([2, 4, 16, 16]), paddle.to_tensor([3, 500]), random(2, 77, 16)
    measured = saved_numbers(lambda: unet(x, t, hidden).sample, unet.parameters())
    kept = kept_by_unet(lazy_unet(file), 16, 16, 77)
    assert measured == pytest.approx(2 * sum(layer.plain + layer.softmax for layer in kept), rel=0.03)


def lazy_unet(file: Path) -> UNet2DConditionModel:
    with paddle.LazyGuard():
        return UNet2DConditionModel(**json.loads(file.read_text(encoding="utf-8")))


def test_a_text_encoder_keeps_what_the_formula_says() -> None:
    encoder = tiny_text_encoder()
    encoder.train()
    ids = paddle.ones([2, 77], dtype="int64")
    size = TextSize(**{key: TEXT_CONFIG[key] for key in TextSize.__dataclass_fields__ if key in TEXT_CONFIG})
    measured = saved_numbers(lambda: encoder(ids)[0], encoder.parameters())
    assert measured == pytest.approx(2 * size.kept(77), rel=0.03)


def test_weights_are_counted_without_memory() -> None:
    """Figures of the public checkpoints."""
    sd15, sd21 = read_footprint("sd15"), read_footprint("sd21")
    assert numbers(shapes_of(sd15.unet)) == 859_520_964
    assert numbers(shapes_of(sd15.vae)) == 83_653_863
    assert numbers(sd15.text.shapes()) == 123_060_480
    assert numbers(shapes_of(sd21.unet)) == 865_910_724
    assert numbers(sd21.text.shapes()) == 340_387_840
    assert not any(parameter._is_initialized() for parameter in sd15.unet.parameters())


def test_the_text_encoders_weights_are_those_of_the_stack() -> None:
    encoder = tiny_text_encoder()
    size = TextSize(
        **{key: TEXT_CONFIG[key] for key in TextSize.__dataclass_fields__ if key in TEXT_CONFIG},
        vocab_size=encoder.config.vocab_size,
    )
    assert sorted(size.shapes()) == sorted(shapes_of(encoder))


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--model nowhere: neither sd15, sd21 nor"):
        read_footprint("nowhere")
    with pytest.raises(ValueError, match=r"cannot read .*config\.json"):
        read_footprint(str(tmp_path))


def test_other_architectures_are_refused() -> None:
    unet = UNet2DConditionModel(**{**UNET_CONFIG, "down_block_types": ("DownBlock2D", "AttnDownBlock2D")})
    with pytest.raises(ValueError, match=r"down_blocks\.1 is a AttnDownBlock2D"):
        kept_by_unet(unet, 8, 8, 77)
