"""Files of every form, written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ppsd.adapters.places import Place
from ppsd.interop.lora import LoraFile, read_lora, write_lora
from ppsd.interop.lora.sgm import sgm_name
from tests.lora_files.deltas import delta_of, random_factors
from tests.lora_files.layer_names import SDXL

TO_Q = Place("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
TO_OUT = Place("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0")
CONV = Place("unet", "up_blocks.1.resnets.2.conv1")
TEXT = Place("text_encoder", "text_model.encoder.layers.1.mlp.fc1")
SHAPES = {TO_Q: [8, 6], TO_OUT: [8, 8], CONV: [8, 6, 3, 3], TEXT: [16, 8]}
KOHYA = {
    TO_Q: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    TO_OUT: "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0",
    CONV: "lora_unet_up_blocks_1_resnets_2_conv1",
    TEXT: "lora_te_text_model_encoder_layers_1_mlp_fc1",
}


def layers(kind: str = "lora", **options: Any) -> dict[Place, dict[str, np.ndarray]]:
    return {
        place: random_factors(kind, shape, seed=i, **{"rank": 2, **options})
        for i, (place, shape) in enumerate(SHAPES.items())
    }


def same_deltas(first: LoraFile, second: LoraFile, relative: float = 0.0) -> None:
    assert set(first.layers) == set(second.layers)
    for place, factors in first.layers.items():
        shape = SHAPES[place]
        expected = delta_of(factors, shape)
        found = delta_of(second.layers[place], shape)
        assert np.abs(found - expected).max() <= relative * np.abs(expected).max(), place


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_a_kohya_file_stays_as_it_is_bit_for_bit(tmp_path: Path, kind: str, dtype: str) -> None:
    write_lora(tmp_path / "a.safetensors", LoraFile(layers(kind), {"ss_steps": "3"}), precision=dtype)
    read = read_lora(tmp_path / "a.safetensors")
    write_lora(tmp_path / "b.safetensors", read)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert set(read.dtypes.values()) == {"F32", {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]}


def test_a_file_of_half_precision_throughout_stays_as_it_is(tmp_path: Path) -> None:
    """As kohya saves it with save_precision fp16: alphas, too."""
    tensors = {f"{KOHYA[p]}.{leaf}": v.astype(np.float16) for p, f in layers().items() for leaf, v in f.items()}
    save_file(tensors, tmp_path / "a.safetensors", {"ss_network_dim": "2", "format": "pt"})
    write_lora(tmp_path / "b.safetensors", read_lora(tmp_path / "a.safetensors"))
    again = load_file(tmp_path / "b.safetensors")
    assert set(again) == set(tensors)
    for name, value in tensors.items():
        assert again[name].dtype == np.float16
        np.testing.assert_array_equal(again[name].view(np.uint16), value.view(np.uint16))


def test_bfloat16_is_the_nearest(tmp_path: Path) -> None:
    """1 + 2^-8 lies between 1 and 1 + 2^-7: the even one is 1; a little more goes up."""
    down = np.array([[1 + 2**-8, 1 + 2**-8 + 2**-20, -1 - 3 * 2**-8, 3.0]], np.float32)
    lora = LoraFile({TO_Q: {"lora_down.weight": down, "lora_up.weight": np.ones([8, 1], np.float32)}})
    write_lora(tmp_path / "a.safetensors", lora, precision="bfloat16")
    found = read_lora(tmp_path / "a.safetensors").layers[TO_Q]["lora_down.weight"]
    np.testing.assert_array_equal(found, [[1, 1 + 2**-7, -1 - 2**-6, 3]])


@pytest.mark.parametrize("form", ["kohya", "diffusers", "ppdiffusers"])
@pytest.mark.parametrize("keep_alpha", [False, True])
def test_every_form_is_the_same_lora(tmp_path: Path, form: str, keep_alpha: bool) -> None:
    """alpha 3 of rank 2: a scale that is no power of two. ppdiffusers' form has the UNet's Linear layers only."""
    lora = LoraFile(
        {p: f for p, f in layers().items() if form != "ppdiffusers" or p in (TO_Q, TO_OUT)}, {"ss_tag": "é 你"}
    )
    write_lora(tmp_path / "a.safetensors", lora, form, keep_alpha=keep_alpha)
    read = read_lora(tmp_path / "a.safetensors")
    assert read.form == form
    assert read.metadata["ss_tag"] == "é 你"
    same_deltas(lora, read, 0.0 if form == "kohya" or (keep_alpha and form == "diffusers") else 1e-6)


def test_a_scale_that_is_a_power_of_two_is_exact(tmp_path: Path) -> None:
    lora = LoraFile(layers(alpha=1.0))
    write_lora(tmp_path / "a.safetensors", lora, "diffusers")
    same_deltas(lora, read_lora(tmp_path / "a.safetensors"))


def test_what_diffusers_reads(tmp_path: Path) -> None:
    mixed = LoraFile(
        {**layers(), CONV: random_factors("lora", SHAPES[CONV], 4, 1.0)}, {"ss_steps": "3", "format": "old"}
    )
    write_lora(tmp_path / "a.safetensors", mixed, "diffusers")
    tensors = load_file(tmp_path / "a.safetensors")
    assert sorted(tensors) == sorted(
        [
            f"{prefix}.{direction}.weight"
            for direction in ("down", "up")
            for prefix in (
                "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora",
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.lora",
                "unet.up_blocks.1.resnets.2.conv1.lora",
                "text_encoder.text_model.encoder.layers.1.mlp.fc1.lora_linear_layer",
            )
        ]
    )
    ranks = {name: value.shape[0] for name, value in tensors.items() if ".down." in name}
    assert set(ranks.values()) == {2, 4}
    assert {rank for name, rank in ranks.items() if name.startswith("unet")} == {4}  # one rank a part: the largest
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["ss_steps"]) == ("pt", "3")
    config = json.loads(metadata["lora_adapter_metadata"])
    assert (config["unet.r"], config["unet.lora_alpha"], config["unet.rank_pattern"]) == (4, 4, {})
    assert (config["text_encoder.r"], config["text_encoder.lora_alpha"]) == (2, 2)


def test_kept_alphas_are_in_the_metadata(tmp_path: Path) -> None:
    mixed = {**layers(), CONV: random_factors("lora", SHAPES[CONV], 4, 1.0)}
    write_lora(tmp_path / "a.safetensors", LoraFile(mixed), "diffusers", keep_alpha=True)
    read = read_lora(tmp_path / "a.safetensors")
    config = json.loads(read.metadata["lora_adapter_metadata"])
    assert (config["unet.r"], config["unet.lora_alpha"]) == (2, 3)
    assert config["unet.rank_pattern"] == {CONV.path: 4}
    assert config["unet.alpha_pattern"] == {CONV.path: 1}
    for place, factors in mixed.items():
        for leaf, value in factors.items():
            np.testing.assert_array_equal(read.layers[place][leaf], value)
    write_lora(tmp_path / "b.safetensors", read)
    assert "lora_adapter_metadata" not in read_lora(tmp_path / "b.safetensors").metadata  # diffusers would trust both


def test_half_precision_keeps_what_it_can(tmp_path: Path) -> None:
    """The factor alpha / rank of 1.5 does not fit into float16 again, 0.5 does."""
    for alpha, expected in ((3.0, np.float32), (1.0, np.float16)):
        write_lora(tmp_path / "a.safetensors", LoraFile(layers(alpha=alpha)), precision="float16")
        lora = read_lora(tmp_path / "a.safetensors")
        write_lora(tmp_path / "b.safetensors", lora, "diffusers")
        same_deltas(lora, read_lora(tmp_path / "b.safetensors"), 1e-6 if alpha == 3.0 else 0.0)
        up = load_file(tmp_path / "b.safetensors")["unet.up_blocks.1.resnets.2.conv1.lora.up.weight"]
        assert up.dtype == expected


def test_cores_are_merged_for_diffusers(tmp_path: Path) -> None:
    lora = LoraFile({CONV: random_factors("tucker", SHAPES[CONV], 3)})
    write_lora(tmp_path / "a.safetensors", lora, "diffusers")
    same_deltas(lora, read_lora(tmp_path / "a.safetensors"), 1e-6)


@pytest.mark.parametrize(
    ("place", "shape"), [(TO_Q, [8, 6]), (CONV, [8, 6, 3, 3]), (CONV, [8, 8, 3, 3])], ids=["linear", "conv", "square"]
)
def test_dora_through_diffusers(tmp_path: Path, place: Place, shape: list[int]) -> None:
    magnitude = np.arange(1, 9, dtype=np.float32).reshape(8, *[1] * (len(shape) - 1))
    lora = LoraFile({place: {**random_factors("lora", shape), "dora_scale": magnitude}})
    write_lora(tmp_path / "a.safetensors", lora, "diffusers")
    key = f"unet.{place.path}.lora_magnitude_vector"
    assert load_file(tmp_path / "a.safetensors")[key].shape == ((8,) if len(shape) == 2 else (1, 8, 1, 1))
    np.testing.assert_array_equal(read_lora(tmp_path / "a.safetensors").layers[place]["dora_scale"], magnitude)


@pytest.mark.parametrize("per_block", [2, 1])
def test_sdxl_through_kohyas_names(tmp_path: Path, per_block: int) -> None:
    names = ["down_blocks.1.attentions.0.proj_in", "up_blocks.0.attentions.1.proj_in"] if per_block == 1 else SDXL
    two = Place("text_encoder_2", "text_model.encoder.layers.31.mlp.fc2")
    places = [*(Place("unet", name) for name in names), TEXT, two]
    factors = {place: random_factors("lora", [2, 3], 1, seed=i) for i, place in enumerate(places)}
    write_lora(tmp_path / "a.safetensors", LoraFile(factors, layers_per_block=per_block))
    tensors = load_file(tmp_path / "a.safetensors")
    assert "lora_te1_text_model_encoder_layers_1_mlp_fc1.alpha" in tensors
    assert "lora_te2_text_model_encoder_layers_31_mlp_fc2.lora_up.weight" in tensors
    assert f"lora_unet_{sgm_name(names[-1].replace('.', '_'), per_block)}.lora_down.weight" in tensors
    assert not any("down_blocks" in key or "mid_block" in key for key in tensors)
    read = read_lora(tmp_path / "a.safetensors")
    assert read.layers_per_block == per_block
    assert set(read.layers) == set(factors)
    for place, own in factors.items():
        np.testing.assert_array_equal(read.layers[place]["lora_up.weight"], own["lora_up.weight"])


def test_stable_diffusion_1_with_the_original_names(tmp_path: Path) -> None:
    factors = random_factors("lora", [4, 4, 3, 3])
    save_file(
        {f"lora_unet_output_blocks_2_1_conv.{leaf}": v for leaf, v in factors.items()}, tmp_path / "a.safetensors"
    )
    lora = read_lora(tmp_path / "a.safetensors")
    assert list(lora.layers) == [Place("unet", "up_blocks.0.upsamplers.0.conv")]
    assert not lora.sdxl
