"""Files that are no LoRA that ppsd knows: what is said of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ppsd.adapters.places import Place
from ppsd.interop.lora import LoraFile, read_lora, write_lora
from tests.lora_files.deltas import random_factors

NAME = "lora_unet_mid_block_resnets_0_conv1"
PLACE = Place("unet", "mid_block.resnets.0.conv1")
SHAPE = [8, 6, 3, 3]


def refused(tmp_path: Path, tensors: dict[str, Any], *said: str) -> None:
    file = tmp_path / "a.safetensors"
    save_file({key: np.asarray(value, np.float32) for key, value in tensors.items()}, file)
    with pytest.raises(ValueError, match=r"a\.safetensors") as error:
        read_lora(file)
    for words in said:
        assert words in str(error.value)


def factors(kind: str = "lora", **changed: Any) -> dict[str, np.ndarray]:
    """With underscores for dots in the names of what is changed; None: without it."""
    made: dict[str, Any] = {
        **random_factors(kind, SHAPE),
        **{k.replace("_weight", ".weight"): v for k, v in changed.items()},
    }
    return {f"{NAME}.{leaf}": value for leaf, value in made.items() if value is not None}


def test_keys_that_match_nothing_are_listed(tmp_path: Path) -> None:
    strange = {f"lora_unet_double_blocks_{i}_img_attn.lora_up.weight": [[1.0]] for i in range(12)}
    refused(tmp_path, {**factors(), **strange}, "12 keys match no layer", "double_blocks_5_img_attn", ", ...")


def test_algorithms_that_are_not_known(tmp_path: Path) -> None:
    other = {f"{NAME}.diff": [1.0], "lora_unet_mid_block_resnets_0_norm1.w_norm": [1.0], f"{NAME}.oft_blocks": [1.0]}
    refused(tmp_path, {**factors(), **other}, "3 keys", f"{NAME}.diff", "norm1.w_norm", "diff, oft_blocks, w_norm")


def test_biases_are_not_dropped(tmp_path: Path) -> None:
    bias = {"unet.conv_in.lora_B.bias": [1.0]}
    refused(tmp_path, {"unet.conv_in.lora_A.weight": np.ones([1, 4, 3, 3]), **bias}, "unet.conv_in.lora_B.bias")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    up = np.ones([8, 2, 1, 1])
    up[3] = value
    refused(tmp_path, factors(lora_up_weight=up), f"unet.{PLACE.path} lora_up.weight", "NaN or infinite")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("lora", "lora_up.weight"),
        ("lora", "lora_down.weight"),
        ("loha", "hada_w2_b"),
        ("loha-tucker", "hada_t2"),
        ("lokr", "lokr_w2_a"),
        ("lokr", "lokr_w1"),
    ],
)
def test_half_of_the_factors(tmp_path: Path, kind: str, missing: str) -> None:
    refused(tmp_path, factors(kind, **{missing: None}), PLACE.path, f"without {missing}")


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("lora", {"lora_up_weight": np.ones([8, 3, 1, 1])}),
        ("lora", {"lora_up_weight": np.ones([8, 2, 3, 3])}),
        ("lora", {"lora_down_weight": np.ones([2])}),
        ("tucker", {"lora_mid_weight": np.ones([2, 3, 3, 3])}),
        ("loha", {"hada_w2_a": np.ones([9, 2])}),
        ("loha", {"hada_w1_b": np.ones([3, 54]), "hada_w2_b": np.ones([3, 54])}),
        ("loha-tucker", {"hada_t1": np.ones([2, 3, 3, 3])}),
        ("lokr", {"lokr_w2_b": np.ones([3, 27])}),
        ("lokr", {"lokr_w2": np.ones([4, 3, 3, 3])}),
        ("lokr-tucker", {"lokr_t2": np.ones([2, 1, 3, 3])}),
        ("lora", {"dora_scale": np.ones([7, 1, 1, 1])}),
        ("lokr", {"dora_scale": np.ones([8, 6, 1, 1])}),
    ],
)
def test_shapes_that_contradict_each_other(tmp_path: Path, kind: str, changed: dict[str, Any]) -> None:
    shape = list(next(iter(changed.values())).shape)
    refused(tmp_path, factors(kind, **changed), PLACE.path, "do not fit", str(shape))


@pytest.mark.parametrize("length", [0x280, 0x480])
def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path, length: int) -> None:
    """Its eight bytes are then those that pickles of the protocols 2 and 4 begin with."""
    lora = LoraFile({PLACE: random_factors("lora", SHAPE)}, {"ss_padding": ""})
    write_lora(tmp_path / "a.safetensors", lora)
    lora.metadata["ss_padding"] = " " * (
        length - int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little")
    )
    write_lora(tmp_path / "a.safetensors", lora)
    assert int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little") == length
    assert list(read_lora(tmp_path / "a.safetensors").layers) == [PLACE]


def test_several_algorithms_on_one_layer(tmp_path: Path) -> None:
    refused(tmp_path, {**factors("lora"), **factors("loha")}, "several algorithms")


def test_an_alpha_that_is_no_number(tmp_path: Path) -> None:
    refused(tmp_path, factors(alpha=[1.0, 2.0]), "alpha of the shape [2]")


def test_only_an_alpha(tmp_path: Path) -> None:
    refused(tmp_path, {f"{NAME}.alpha": 1.0}, "has alpha and no factors")


def test_two_names_of_one_factor(tmp_path: Path) -> None:
    tensors = {f"unet.{PLACE.path}.{name}.weight": np.ones([2, 6, 3, 3]) for name in ("lora.down", "lora_A")}
    refused(tmp_path, tensors, "are the same layer's")


def test_configurations_that_are_none(tmp_path: Path) -> None:
    tensors = {
        f"unet.conv_in.lora_{x}.weight": np.ones(s, np.float32) for x, s in (("A", [1, 4, 3, 3]), ("B", [8, 1, 1, 1]))
    }
    pattern = '{"unet.lora_alpha": 1, "unet.alpha_pattern": {"(": 2}}'
    for text in ("{", "[]", '{"unet.lora_alpha": "much"}', pattern):
        save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
        with pytest.raises(ValueError, match=r"a\.safetensors: lora_adapter_metadata"):
            read_lora(tmp_path / "a.safetensors")


def test_an_empty_file_and_one_without_tensors(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(ValueError, match=r"a\.safetensors is empty"):
        read_lora(tmp_path / "a.safetensors")
    refused(tmp_path, {}, "holds no tensors")


def test_a_cut_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_lora(file, LoraFile({PLACE: random_factors("lora", SHAPE)}))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a\.safetensors: not a whole safetensors file"):
        read_lora(file)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt", "a.safetensors", "a.pdparams"])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        ValueError, match=f"{name} is a pickle.*{'paddle.load' if name == 'a.pdparams' else 'torch.load'}"
    ):
        read_lora(tmp_path / name)
    assert not (tmp_path / "opened").exists()
    if name != "a.safetensors":
        (tmp_path / "a.safetensors").touch()
        with pytest.raises(ValueError, match=r"take .*a\.safetensors, which stands beside it"):
            read_lora(tmp_path / name)


@pytest.mark.parametrize("form", ["diffusers", "ppdiffusers"])
def test_forms_that_hold_lora_only(tmp_path: Path, form: str) -> None:
    lora = LoraFile({PLACE: random_factors("loha", SHAPE)})
    with pytest.raises(ValueError, match=r"1 layers are loha .*write kohya's form.*as_lora"):
        write_lora(tmp_path / "a.safetensors", lora, form)
    assert not (tmp_path / "a.safetensors").exists()


def test_what_ppdiffusers_would_load_wrongly(tmp_path: Path) -> None:
    linear = Place("unet", "time_embedding.linear_1")
    dora = {**random_factors("lora", [8, 6]), "dora_scale": np.ones([8, 1], np.float32)}
    for what, lora in {
        "convolutions": {PLACE: random_factors("lora", SHAPE)},
        "DoRA": {linear: dora},
        "text encoders": {Place("text_encoder_2", "text_projection"): random_factors("lora", [8, 6])},
    }.items():
        with pytest.raises(ValueError, match=f"ppdiffusers loads no {what}.*form diffusers"):
            write_lora(tmp_path / "a.safetensors", LoraFile(lora), "ppdiffusers")


def test_dora_that_peft_does_not_know(tmp_path: Path) -> None:
    plain = random_factors("lora", SHAPE)
    by_input = {**plain, "dora_scale": np.ones([1, 6, 1, 1], np.float32)}
    with pytest.raises(ValueError, match="each input"):
        write_lora(tmp_path / "a.safetensors", LoraFile({PLACE: by_input}), "diffusers")
    mixed = {PLACE: {**plain, "dora_scale": np.ones([8, 1, 1, 1], np.float32)}, Place("unet", "conv_in"): plain}
    with pytest.raises(ValueError, match=r"1 are not \(conv_in"):
        write_lora(tmp_path / "a.safetensors", LoraFile(mixed), "diffusers")


def test_flags_of_writing(tmp_path: Path) -> None:
    large = {"lora_down.weight": np.full([1, 6], 1e5, np.float32), "lora_up.weight": np.ones([8, 1], np.float32)}
    lora = LoraFile({Place("unet", "time_embedding.linear_1"): large})
    with pytest.raises(
        ValueError, match=r"a: lora_unet_time_embedding_linear_1.lora_down.weight holds 1e\+05, too large"
    ):
        write_lora(tmp_path / "a", lora, precision="float16")
    with pytest.raises(ValueError, match="no form 'a1111'"):
        write_lora(tmp_path / "a", lora, "a1111")
    with pytest.raises(ValueError, match="no precision 'fp8'"):
        write_lora(tmp_path / "a", lora, precision="fp8")
    with pytest.raises(ValueError, match="without layers"):
        write_lora(tmp_path / "a", LoraFile({}))
