"""Layers' names in files, back and forth without a model."""

from __future__ import annotations

from typing import Any

import pytest

from ppsd import compat  # isort: skip  before paddle

from paddle import nn

from ppsd.adapters.places import Place, kohya_name
from ppsd.interop.lora.names import dotted, place_of
from ppsd.interop.lora.sgm import diffusers_name, layers_per_block_of, sgm_name
from tests.lora_files.layer_names import SD1, SDXL, text_names
from tests.tiny import tiny_text_encoder, tiny_unet

compat.apply()

SDXL_LIKE: dict[str, Any] = {
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2],
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 8,
}


def layers_of(model: nn.Layer) -> list[str]:
    return [name for name, layer in model.named_sublayers() if isinstance(layer, (nn.Linear, nn.Conv2D))]


@pytest.mark.parametrize("overrides", [{}, {"use_linear_projection": True}, SDXL_LIKE], ids=["sd1", "sd2", "sdxl"])
def test_every_layer_of_a_unet_is_found_again(overrides: dict[str, Any]) -> None:
    names = layers_of(tiny_unet(**overrides))
    assert len(names) > 80
    assert [place_of(kohya_name(Place("unet", name))) for name in names] == [Place("unet", name) for name in names]


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("several", [False, True])
def test_every_layer_of_a_text_encoder_is_found_again(part: str, several: bool) -> None:
    names = layers_of(tiny_text_encoder())
    assert sorted(names) == sorted(text_names(2))
    for name in names:
        assert place_of(kohya_name(Place(part, name), several)) == Place(part, name)


@pytest.mark.parametrize(("names", "transformers"), [(SD1, 192), (SDXL, 722)], ids=["sd1", "sdxl"])
def test_all_names_of_the_published_models(names: list[str], transformers: int) -> None:
    """192 and 722 are what kohya's trainer reports as modules of the UNet."""
    assert len(set(names)) == len(names)
    assert sum(".attentions." in name for name in names) == transformers
    assert [dotted(name.replace(".", "_")) for name in names] == names


@pytest.mark.parametrize(
    ("sgm", "diffusers"),
    [
        ("input_blocks_0_0", "conv_in"),
        ("time_embed_2", "time_embedding.linear_2"),
        ("label_emb_0_0", "add_embedding.linear_1"),
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        (
            "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("input_blocks_8_1_proj_in", "down_blocks.2.attentions.1.proj_in"),
        ("middle_block_0_emb_layers_1", "mid_block.resnets.0.time_emb_proj"),
        (
            "middle_block_1_transformer_blocks_9_ff_net_0_proj",
            "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
        ),
        ("middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"),
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_5_1_transformer_blocks_1_ff_net_2", "up_blocks.1.attentions.2.transformer_blocks.1.ff.net.2"),
        ("output_blocks_8_0_out_layers_3", "up_blocks.2.resnets.2.conv2"),
        ("out_2", "conv_out"),
    ],
)
def test_names_of_the_original_code(sgm: str, diffusers: str) -> None:
    assert place_of(f"lora_unet_{sgm}") == Place("unet", diffusers)
    assert sgm_name(diffusers.replace(".", "_")) == sgm


@pytest.mark.parametrize(("model", "per_block"), [(SDXL, 2), (None, 1)])
def test_all_original_names_and_back(model: Any, per_block: int) -> None:
    names = model or layers_of(tiny_unet(**SDXL_LIKE))
    made = [sgm_name(name.replace(".", "_"), per_block) for name in names]
    assert len(set(made)) == len(names)
    assert layers_per_block_of(made) == per_block
    assert [place_of(f"lora_unet_{name}", per_block) for name in made] == [Place("unet", name) for name in names]


def test_an_upsampler_without_attention_before_it() -> None:
    """As the original code numbers Stable Diffusion 1's first up block."""
    assert diffusers_name("output_blocks_2_1_conv") == "up_blocks_0_upsamplers_0_conv"
    assert diffusers_name("output_blocks_1_1_conv") is None


def test_a_layer_beyond_a_block_has_no_original_name() -> None:
    with pytest.raises(ValueError, match="2 layers per block"):
        sgm_name("down_blocks_0_resnets_2_conv1")


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_0_resnets_0_norm1",
        "lora_unet_double_blocks_0_img_attn_proj",
        "lora_unet_text_model_encoder_layers_0_mlp_fc1",
        "lora_te_conv_in",
        "lora_te3_encoder_block_0",
        "lora_unet_",
        "lora_unet_input_blocks_3_1_proj_in",
        "conv_in",
    ],
)
def test_other_names_are_nowhere(name: str) -> None:
    assert place_of(name) is None


def test_the_prefix_that_lycoris_gives_whatever_it_wraps() -> None:
    assert place_of("lycoris_conv_in") == Place("unet", "conv_in")
    name = "text_model.encoder.layers.3.mlp.fc2"
    assert place_of(f"lycoris_{name.replace('.', '_')}") == Place("text_encoder", name)
