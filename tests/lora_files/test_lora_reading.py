"""Names that other tools give to the same factors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ppsd.adapters.places import Place
from ppsd.interop.lora import LoraFile, read_lora
from tests.lora_files.deltas import random_factors

OWNER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
PATH = f"{OWNER}.to_q"
OUT = f"{OWNER}.to_out.0"
ENCODER = "text_model.encoder.layers.0.self_attn"
FACTORS = random_factors("lora", [8, 6], alpha=None)
DOWN, UP = FACTORS["lora_down.weight"], FACTORS["lora_up.weight"]


def read(tmp_path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] = {}) -> LoraFile:  # noqa: B006
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / "a.safetensors", metadata
    )
    return read_lora(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        (f"unet.{PATH}.lora.*.weight", Place("unet", PATH)),
        (f"unet.{PATH}.lora_~.weight", Place("unet", PATH)),
        (f"{PATH}.lora_~.weight", Place("unet", PATH)),
        (f"base_model.model.{PATH}.lora_~.weight", Place("unet", PATH)),
        (f"unet.{PATH}.lora_~.default.weight", Place("unet", PATH)),
        (f"unet.{OWNER}.processor.to_q_lora.*.weight", Place("unet", PATH)),
        (f"{OWNER}.processor.to_out_lora.*.weight", Place("unet", OUT)),
        (f"text_encoder.{ENCODER}.out_proj.lora_linear_layer.*.weight", Place("text_encoder", f"{ENCODER}.out_proj")),
        (f"text_encoder.{ENCODER}.to_out_lora.*.weight", Place("text_encoder", f"{ENCODER}.out_proj")),
        (f"text_encoder_2.{ENCODER}.k_proj.lora_~.weight", Place("text_encoder_2", f"{ENCODER}.k_proj")),
        (f"{ENCODER}.v_proj.lora_~.weight", Place("text_encoder", f"{ENCODER}.v_proj")),
        (f"unet.{PATH}.lora_*.weight", Place("unet", PATH)),
    ],
)
def test_names_of_the_same_factors(tmp_path: Path, key: str, place: Place) -> None:
    """*: down and up; ~: A and B."""
    names = [key.replace("*", name).replace("~", letter) for name, letter in (("down", "A"), ("up", "B"))]
    lora = read(tmp_path, {names[0]: DOWN, names[1]: UP})
    assert (lora.form, list(lora.layers)) == ("diffusers", [place])
    np.testing.assert_array_equal(lora.layers[place]["lora_down.weight"], DOWN)
    np.testing.assert_array_equal(lora.layers[place]["lora_up.weight"], UP)
    assert lora.layers[place]["alpha"] == 2  # the rank


@pytest.mark.parametrize("key", [f"unet.{PATH}.alpha", f"unet.{PATH}.lora.alpha"])
def test_an_alpha_beside_the_factors(tmp_path: Path, key: str) -> None:
    tensors = {f"unet.{PATH}.lora_A.weight": DOWN, f"unet.{PATH}.lora_B.weight": UP, key: np.array([8.0], np.float32)}
    alpha = read(tmp_path, tensors).layers[Place("unet", PATH)]["alpha"]
    assert (alpha.shape, float(alpha)) == ((), 8.0)


def test_an_alpha_that_is_an_integer(tmp_path: Path) -> None:
    """As diffusers' convert_state_dict_to_kohya writes it."""
    name = f"lora_unet_{PATH.replace('.', '_')}"
    tensors = {f"{name}.lora_down.weight": DOWN, f"{name}.lora_up.weight": UP, f"{name}.alpha": np.array(4)}
    assert read(tmp_path, tensors).layers[Place("unet", PATH)]["alpha"] == 4


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"unet.lora_alpha": 6}, [6, 6]),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"to_q": 1.5}}, [1.5, 6]),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {r"attn\d\.to_out\.0": 5}}, [6, 5]),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {f"^{PATH}": 2}, "unet.rank_pattern": {PATH: 9}}, [2, 6]),
        (
            {
                "unet.lora_alpha": 6,
                "unet.alpha_pattern": {"attn1.to_q": 5, "to_q": 7},
                "unet.rank_pattern": {"to_q": 9},
            },
            [5, 6],
        ),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"o_q": 1}}, [6, 6]),
        ({"unet.lora_alpha": 6, "unet.use_rslora": True}, [6 * 2**0.5] * 2),
        ({"text_encoder.lora_alpha": 6}, [2, 2]),
    ],
)
def test_alpha_from_pefts_configuration(tmp_path: Path, config: dict[str, object], expected: list[float]) -> None:
    """A pattern ends where the path ends, and begins after a dot. rsLoRA divides by the root of the rank (2)."""
    tensors = {f"unet.{path}.lora_{x}.weight": value for path in (PATH, OUT) for x, value in (("A", DOWN), ("B", UP))}
    lora = read(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(config)})
    assert [float(lora.layers[Place("unet", path)]["alpha"]) for path in (PATH, OUT)] == pytest.approx(expected)


def test_ppdiffusers_linear_weights_are_turned(tmp_path: Path) -> None:
    tensors = {f"unet.{PATH}.lora.down.weight": DOWN.T, f"unet.{PATH}.lora.up.weight": UP.T}
    lora = read(tmp_path, tensors, {"format": "pd"})
    assert lora.form == "ppdiffusers"
    np.testing.assert_array_equal(lora.layers[Place("unet", PATH)]["lora_up.weight"], UP)


def test_dora_of_peft_with_and_without_weight_in_its_name(tmp_path: Path) -> None:
    tensors = {f"unet.{PATH}.lora_A.weight": DOWN, f"unet.{PATH}.lora_B.weight": UP}
    for ending in ("", ".weight", ".default.weight"):
        lora = read(tmp_path, {**tensors, f"unet.{PATH}.lora_magnitude_vector{ending}": np.ones(8, np.float32)})
        assert lora.layers[Place("unet", PATH)]["dora_scale"].shape == (8, 1)


def test_a_folder_as_diffusers_saves_it(tmp_path: Path) -> None:
    read(tmp_path, {f"unet.{PATH}.lora.down.weight": DOWN, f"unet.{PATH}.lora.up.weight": UP})
    with pytest.raises(ValueError, match="none of pytorch_lora_weights"):
        read_lora(tmp_path)
    (tmp_path / "a.safetensors").rename(tmp_path / "pytorch_lora_weights.safetensors")
    assert list(read_lora(tmp_path).layers) == [Place("unet", PATH)]


def test_float64_and_what_lycoris_names(tmp_path: Path) -> None:
    name = f"lycoris_{PATH.replace('.', '_')}"
    factors = random_factors("loha", [8, 6], alpha=2)
    lora = read(tmp_path, {f"{name}.{leaf}": value.astype(np.float64) for leaf, value in factors.items()})
    np.testing.assert_array_equal(lora.layers[Place("unet", PATH)]["hada_w1_a"], factors["hada_w1_a"])
    assert lora.dtypes[Place("unet", PATH), "hada_w1_a"] == "F32"


@pytest.mark.parametrize("name", ["adapter/weights.safetensors", "toy.safetensors"])
def test_a_folder_as_a_run_saves_it(tmp_path: Path, name: str) -> None:
    """A checkpoint, and an export without a file for diffusers."""
    folder = tmp_path / "toy"
    (folder / name).parent.mkdir(parents=True)
    read(tmp_path, {f"unet.{PATH}.lora.down.weight": DOWN, f"unet.{PATH}.lora.up.weight": UP})
    (tmp_path / "a.safetensors").rename(folder / name)
    assert list(read_lora(folder).layers) == [Place("unet", PATH)]
