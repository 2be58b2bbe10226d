"""tools/extract_lora.py: what comes back of a known difference, what cannot, and for which layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import pytest

from ppsd.adapters.places import Place
from ppsd.adapters.targets import PRESETS, Wanted, find_targets
from ppsd.formats.safetensors_file import SafetensorsFile, write_safetensors
from ppsd.interop.diffusers import write_diffusers
from ppsd.interop.lora import read_lora
from ppsd.interop.lora.changes import read_weighted
from ppsd.interop.lora.extraction import is_target
from ppsd.interop.lora.merging import merge_into_pipeline
from ppsd.interop.lora.model_weights import open_parts
from tests.lora_files.deltas import delta_of
from tests.lora_files.pipelines import PLACES, random_layers, save
from tests.tiny import tiny_pipeline_dir, tiny_text_encoder, tiny_unet
from tools.extract_lora import main

compat.apply()
UNET = "unet/diffusion_paddle_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base and a LoRA of rank 2."""
    folder = tmp_path_factory.mktemp("tuned")
    file = save(folder / "a.safetensors", random_layers(base, size=0.2))
    merge_into_pipeline(base, folder / "pipeline", [read_weighted(str(file), 1.0)])
    return folder / "pipeline"


def edited(folder: Path, target: Path, changes: dict[str, float]) -> Path:
    """With numbers added to tensors of the UNet."""
    target.mkdir()
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(folder)).write_bytes(file.read_bytes())
    source = SafetensorsFile(target / UNET)
    values = {name: source.read(name) + np.float32(changes.get(name, 0)) for name in source.specs}
    write_safetensors(target / UNET, source.specs, values.__getitem__, source.metadata)
    return target


def extract(base: Path, tuned: Path, output: Path, *flags: str) -> int:
    return main(["--base", str(base), "--tuned", str(tuned), "--output", str(output), *flags])


def refused(capsys: pytest.CaptureFixture[str], code: int, message: str) -> None:
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (1, 1), error
    assert message in error


@pytest.mark.parametrize("flags", [("--rank", "2", "--conv_rank", "2"), ("--energy", "1")], ids=["rank", "energy"])
@pytest.mark.parametrize("layout", ["paddle", "torch"])
def test_a_difference_of_a_rank_comes_back_exactly(
    base: Path, tuned: Path, layout: str, flags: Sequence[str], tmp_path: Path
) -> None:
    if layout == "torch":
        write_diffusers(tuned, tmp_path / "torch")
        tuned = tmp_path / "torch"
    assert extract(base, tuned, tmp_path / "a.safetensors", *flags) == 0
    layers, parts, original = (
        read_lora(tmp_path / "a.safetensors").layers,
        open_parts(base),
        random_layers(base, size=0.2),
    )
    assert set(layers) == set(PLACES)
    for place, factors in layers.items():
        shape = parts[place.part].weight_shape(place.path)
        expected = delta_of(original[place], shape)
        assert np.abs(expected).max() > 0.05
        assert np.abs(delta_of(factors, shape) - expected).max() <= 1e-5
        if flags[0] == "--rank":
            assert factors["lora_down.weight"].shape == (2, *shape[1:])
            assert float(factors["alpha"]) == 2
        sizes = [np.linalg.norm(factors[f"lora_{name}.weight"]) for name in ("down", "up")]
        assert sizes[0] == pytest.approx(sizes[1], rel=1e-4), "both factors have the roots of the singular values"


def test_a_lower_rank_is_the_best_approximation(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(base, tuned, tmp_path / "a.safetensors", "--rank", "1", "--no_text_encoder") == 0
    out = capsys.readouterr().out
    place = PLACES[1]
    change = delta_of(random_layers(base, size=0.2)[place], open_parts(base)["unet"].weight_shape(place.path))
    values = np.linalg.svd(change, compute_uv=False)
    line = re.search(rf"unet.{re.escape(place.path)}: rank 1, change (\S+), lacks (\S+) ", out)
    assert line
    assert float(line[1]) == pytest.approx(np.linalg.norm(values), rel=1e-3)
    assert float(line[2]) == pytest.approx(values[1], rel=1e-2)
    factors = read_lora(tmp_path / "a.safetensors").layers
    assert {place.part for place in factors} == {"unet"}
    found = np.linalg.norm(delta_of(factors[place], change.shape) - change)
    assert found == pytest.approx(values[1], rel=1e-3)
    assert "1 convolution, without --conv_rank: unet.down_blocks.1.resnets.0.conv1.weight" in out


def test_energy_gives_each_layer_its_rank(base: Path, tuned: Path, tmp_path: Path) -> None:
    assert extract(base, tuned, tmp_path / "a.safetensors", "--energy", "0.7") == 0
    ranks = set()
    original = random_layers(base, size=0.2)
    for place, factors in read_lora(tmp_path / "a.safetensors").layers.items():
        shape = open_parts(base)[place.part].weight_shape(place.path)
        energy = np.linalg.svd(delta_of(original[place], shape).reshape(shape[0], -1), compute_uv=False) ** 2
        rank = len(factors["lora_down.weight"])
        assert energy[:rank].sum() >= 0.7 * energy.sum() > energy[: rank - 1].sum()
        ranks.add(rank)
    assert ranks == {1, 2}


def test_what_a_lora_cannot_hold_is_named(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = "down_blocks.0.resnets.0"
    changes = {f"{block}.conv1.bias": 0.1, f"{block}.norm1.weight": 0.2, "conv_out.bias": 0.1, "conv_in.weight": 0.1}
    other = edited(tuned, tmp_path / "edited", changes)
    assert extract(base, other, tmp_path / "a.safetensors", "--rank", "2", "--targets", "attn-mlp") == 0
    out = capsys.readouterr().out
    assert f"2 bias: unet.{block}.conv1.bias, unet.conv_out.bias" in out or "2 bias: unet.conv_out.bias" in out
    assert f"1 norm: unet.{block}.norm1.weight" in out
    assert "3 not among --targets: " in out
    assert "6 tensors differ and are not in the LoRA" in out
    total = sum(len(list(part.names())) for part in open_parts(base).values())
    assert f"{total - 6 - 5} tensors do not differ" in out
    assert {place.path.split(".")[0] for place in read_lora(tmp_path / "a.safetensors").layers} == {
        "down_blocks",
        "text_model",
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_name_the_layers_that_training_takes(preset: str) -> None:
    models = {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}
    trained = {target.place for target in find_targets(models, Wanted(1, 1, 1, 1, preset))}
    names = {
        Place(part, name[: -len(".weight")])
        for part, model in models.items()
        for name, value in model.state_dict().items()
        if name.endswith(".weight") and value.ndim in (2, 4) and "embedding.weight" not in name
    }
    assert {place for place in names if is_target(place, preset)} == trained


def test_room_for_fewer_ranks_is_said(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(base, tuned, tmp_path / "a.safetensors", "--rank", "16", "--targets", "to_q|q_proj") == 0
    out = capsys.readouterr().out
    assert f"1 layers have room for fewer ranks than asked for: unet.{PLACES[0].path} 8" in out
    assert "text_encoder.text_model.encoder.layers.1.self_attn.q_proj: rank 16" in out


def test_models_that_are_no_pair_are_refused(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "wide"
    tiny_unet(block_out_channels=(8, 24)).save_pretrained(str(wide / "unet"), safe_serialization=True)
    refused(capsys, extract(base, wide, tmp_path / "a.safetensors", "--rank", "2"), "--tuned has no text_encoder/")
    code = extract(base, wide, tmp_path / "a.safetensors", "--rank", "2", "--no_text_encoder")
    refused(capsys, code, "are different models, in ")
    nan = edited(base, tmp_path / "nan", {"conv_in.weight": np.nan})
    refused(
        capsys, extract(base, nan, tmp_path / "a.safetensors", "--rank", "2"), "unet.conv_in.weight has values that"
    )
    refused(capsys, extract(base, base, tmp_path / "a.safetensors", "--rank", "2"), "do not differ in any layer")
    cut = edited(base, tmp_path / "cut", {})
    (cut / UNET).write_bytes((cut / UNET).read_bytes()[:-4])
    refused(capsys, extract(base, cut, tmp_path / "a.safetensors", "--rank", "2"), "not a whole safetensors file")
    assert not (tmp_path / "a.safetensors").exists()


def test_flags_that_do_not_go_together_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, message in (
        (["--rank", "2", "--energy", "0.9"], "not allowed with"),
        (["--energy", "1.5"], "above 0 and up to 1"),
        (["--energy", "0.5", "--conv_rank", "2"], "--conv_rank is for --rank"),
        (["--rank", "2", "--max_rank", "2"], "--max_rank is for --energy"),
        (["--rank", "2", "--targets", "("], "neither a preset"),
    ):
        with pytest.raises(SystemExit, match="2"):
            extract(Path("a"), Path("b"), Path("c.safetensors"), *flags)
        assert message in capsys.readouterr().err
