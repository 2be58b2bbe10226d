"""tools/resize_lora.py: ranks by kohya's methods, and how much of each layer is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppsd.interop.lora import read_lora
from ppsd.interop.lora.low_rank import rank_by_norm, rank_by_ratio, rank_by_sum, svd_of_lora
from tests.lora_files.deltas import delta_of, random_factors
from tests.lora_files.pipelines import PLACES, random_layers, save
from tests.tiny import tiny_pipeline_dir
from tools.resize_lora import main

VALUES = np.array([8.0, 4.0, 2.0, 1.0, 0.5])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("method", "param", "rank"),
    [
        (rank_by_ratio, 2.0, 1),  # 4 is not above 8 / 2
        (rank_by_ratio, 4.5, 3),
        (rank_by_ratio, 1000.0, 5),
        (rank_by_norm, 0.8, 1),  # 64 of 85.25: 0.866 of the norm
        (rank_by_norm, 0.9, 2),
        (rank_by_norm, 1.0, 5),
        (rank_by_sum, 8 / 15.5, 1),
        (rank_by_sum, 8.1 / 15.5, 2),
        (rank_by_sum, 1.0, 5),
    ],
)
def test_methods_take_as_few_ranks_as_their_formula_says(method: object, param: float, rank: int) -> None:
    assert method(VALUES, param) == rank  # type: ignore[operator]


def test_singular_values_come_from_the_thin_factors() -> None:
    for shape, rank in (([30, 20], 4), ([12, 6, 3, 3], 5), ([4, 6], 9)):
        factors = random_factors("lora", shape, rank=rank, alpha=None)
        svd = svd_of_lora(factors)
        expected = np.linalg.svd(delta_of(factors, shape).reshape(shape[0], -1), compute_uv=False)
        assert svd.room == min(rank, shape[0])
        np.testing.assert_allclose(svd.values, expected[: svd.room], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose((svd.left * svd.values) @ svd.right, delta_of(factors, shape).reshape(shape[0], -1))


def test_the_largest_singular_values_stay(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = random_layers(base, rank=6, alpha=3.0)
    file, out = save(tmp_path / "a.safetensors", layers), tmp_path / "b.safetensors"
    assert main([str(file), str(out), "--new_rank", "2", "--new_conv_rank", "3"]) == 0
    said, made = capsys.readouterr().out, read_lora(out)
    for place, factors in made.layers.items():
        rank = 3 if place.path.endswith("conv1") else 2
        shape = (len(factors["lora_up.weight"]), *factors["lora_down.weight"].shape[1:])
        matrix = delta_of(layers[place], shape).reshape(shape[0], -1)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        assert len(factors["lora_down.weight"]) == rank
        assert float(factors["alpha"]) / rank == pytest.approx(3.0 / 6), "the scale stays"
        assert np.abs(delta_of(factors, shape).reshape(shape[0], -1) - best).max() < 1e-6 * np.abs(best).max() * 10
        kept = np.linalg.norm(values[:rank]) / np.linalg.norm(values)
        assert f"{place.part}.{place.path}: rank 6 -> {rank}, keeps {kept:.2%} of the norm" in said
    assert made.metadata["ss_network_dim"] == "2"
    assert made.metadata["ss_training_comment"].startswith("dimension is resized from 6 to 2 (conv: 3); ")


def test_dynamic_ranks_and_the_most_of_them(base: Path, tmp_path: Path) -> None:
    layers = random_layers(base, rank=6)
    file, out = save(tmp_path / "a.safetensors", layers, {"ss_network_dim": "6"}), tmp_path / "b.safetensors"
    assert main([str(file), str(out), "--new_rank", "4", "--dynamic_method", "sv_fro", "--dynamic_param", "0.9"]) == 0
    ranks = {}
    for place, factors in read_lora(out).layers.items():
        shape = (len(factors["lora_up.weight"]), *factors["lora_down.weight"].shape[1:])
        values = np.linalg.svd(delta_of(layers[place], shape).reshape(shape[0], -1), compute_uv=False)
        ranks[place] = len(factors["lora_down.weight"])
        needed = next(r for r in range(1, 7) if np.linalg.norm(values[:r]) >= 0.9 * np.linalg.norm(values))
        assert ranks[place] == min(needed, 4)
    assert len(set(ranks.values())) > 1
    assert read_lora(out).metadata["ss_network_dim"] == "Dynamic"


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_other_algorithms_become_lora(
    base: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = random_layers(base, kind)
    file, out = save(tmp_path / "a.safetensors", layers), tmp_path / "b.safetensors"
    assert main([str(file), str(out), "--new_rank", "999"]) == 1
    assert "the layer's shape is needed; name the pipeline" in capsys.readouterr().err
    assert main([str(file), str(out), "--new_rank", "999", "--base", str(base)]) == 0
    assert "keep their rank, since they have no more (asked for: 999)" in capsys.readouterr().out
    for place, factors in read_lora(out).layers.items():
        shape = (len(factors["lora_up.weight"]), *factors["lora_down.weight"].shape[1:])
        expected = delta_of(layers[place], shape)
        assert np.abs(delta_of(factors, shape) - expected).max() < 1e-6 * np.abs(expected).max() * 10


def test_layers_of_zeros_get_one_rank(tmp_path: Path) -> None:
    factors = random_factors("lora", [8, 8], rank=4)
    factors["lora_up.weight"][:] = 0
    file = save(tmp_path / "a.safetensors", {PLACES[0]: factors})
    assert (
        main([str(file), str(tmp_path / "b.safetensors"), "--dynamic_method", "sv_ratio", "--dynamic_param", "5"]) == 0
    )
    assert len(read_lora(tmp_path / "b.safetensors").layers[PLACES[0]]["lora_down.weight"]) == 1


def test_the_form_of_the_file_stays(base: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", random_layers(base, rank=4))
    out = str(tmp_path / "b.safetensors")
    assert main([str(file), out, "--new_rank", "2", "--to", "diffusers"]) == 0
    assert main([out, str(tmp_path / "c.safetensors"), "--new_rank", "1"]) == 0
    assert read_lora(tmp_path / "c.safetensors").form == "diffusers"


def test_what_cannot_be_is_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.safetensors", {PLACES[0]: random_factors("lora", [320, 320])})
    assert main([str(file), str(tmp_path / "b.safetensors"), "--new_rank", "1", "--base", str(base)]) == 1
    assert "is for another base model than" in capsys.readouterr().err
    assert main([str(file), str(file), "--new_rank", "1"]) == 1
    assert "which is read; name another file to write" in capsys.readouterr().err
    for flags, message in (
        ([], "--new_rank or --dynamic_method"),
        (["--dynamic_method", "sv_fro"], "go together"),
        (["--dynamic_method", "sv_fro", "--dynamic_param", "2"], "the others' at most 1"),
        (["--dynamic_method", "sv_ratio", "--dynamic_param", "0.5"], "sv_ratio's is 1 or more"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(file), str(tmp_path / "b.safetensors"), *flags])
        assert message in capsys.readouterr().err
