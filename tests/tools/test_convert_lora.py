"""tools/convert_lora.py: the change of every weight is the same in any form, and what was rounded is said."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from ppsd.interop.lora import LoraFile, read_lora, write_lora
from ppsd.interop.lora.model_weights import open_parts
from tests.lora_files.deltas import delta_of, random_factors
from tests.lora_files.pipelines import PLACES, random_layers, save
from tests.tiny import tiny_pipeline_dir
from tools.convert_lora import main

LINEAR = PLACES[:2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("base"))


def same_deltas(base: Path, one: LoraFile, other: LoraFile, relative: float) -> None:
    parts = open_parts(base)
    assert one.layers.keys() <= other.layers.keys()
    for place, factors in one.layers.items():
        shape = parts[place.part].weight_shape(place.path)
        expected = delta_of(factors, shape)
        assert np.abs(delta_of(other.layers[place], shape) - expected).max() <= relative * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_through_every_form_and_back(
    base: Path, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """alpha / rank is a power of two: nothing is rounded. ppdiffusers reads the UNet's linear layers only."""
    first = tmp_path / "a.safetensors"
    write_lora(first, LoraFile(random_layers(base, places=LINEAR, rank=4, alpha=2.0)), precision=precision)
    path = first
    for form in ("diffusers", "ppdiffusers", "kohya", "diffusers", "kohya"):
        following = tmp_path / f"{path.stem}{form[0]}.safetensors"
        assert main([str(path), str(following), "--to", form]) == 0
        assert " layers are exactly the same" in (said := capsys.readouterr().out)
        assert "rounded" not in said
        path = following
        assert read_lora(path).form == form
    same_deltas(base, read_lora(first), read_lora(path), 0.0)


def test_what_is_rounded_is_said(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.safetensors", random_layers(base, rank=3, alpha=1.0))
    out = tmp_path / "b.safetensors"
    assert main([str(file), str(out), "--to", "diffusers"]) == 0
    assert f"0 layers are exactly the same, {len(PLACES)} are rounded, by " in capsys.readouterr().out
    same_deltas(base, read_lora(file), read_lora(out), 3e-7)
    assert main([str(file), str(out), "--to", "diffusers", "--keep_alpha"]) == 0
    assert f"{len(PLACES)} layers are exactly the same\n" in capsys.readouterr().out
    same_deltas(base, read_lora(file), read_lora(out), 0.0)
    assert main([str(file), str(out), "--to", "kohya", "--precision", "bfloat16"]) == 0
    assert f"{len(PLACES)} are rounded, by " in capsys.readouterr().out


def test_a_file_of_kohyas_form_stays_as_it_is(base: Path, tmp_path: Path) -> None:
    for kind in ("tucker", "loha", "lokr"):
        file = save(tmp_path / "a.safetensors", random_layers(base, kind), {"ss_steps": "3"})
        assert main([str(file), str(tmp_path / "b.safetensors"), "--to", "kohya"]) == 0
        assert (tmp_path / "b.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_other_algorithms_only_as_lora(
    base: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = save(tmp_path / "a.safetensors", random_layers(base, kind)), tmp_path / "b.safetensors"
    assert main([str(file), str(out), "--to", "diffusers"]) == 1
    assert f"{len(PLACES)} layers are {kind}, which diffusers has no form for: --as_lora" in capsys.readouterr().err
    assert not out.exists()
    assert main([str(file), str(out), "--to", "diffusers", "--as_lora", "--base", str(base)]) == 0
    same_deltas(base, read_lora(file), read_lora(out), 1e-6)
    assert all("lora_up.weight" in factors for factors in read_lora(out).layers.values())


def test_entries_are_added(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.safetensors", random_layers(base), {"ss_steps": "3", "ss_epoch": "1"})
    out = tmp_path / "b.safetensors"
    assert main([str(file), str(out), "--to", "kohya", "--metadata", "ss_steps=4", "note=a = b"]) == 0
    assert read_lora(out).metadata == {"ss_steps": "4", "ss_epoch": "1", "note": "a = b"}
    with pytest.raises(SystemExit, match="2"):
        main([str(file), str(out), "--to", "kohya", "--metadata", "steps"])
    assert "'steps' is not KEY=VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(file), str(out), "--to", "kohya", "--keep_alpha"])


def test_what_cannot_be_read_is_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "b.safetensors")
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x02")
    (tmp_path / "short.safetensors").write_bytes(b"\x10")
    wide = save(tmp_path / "wide.safetensors", {PLACES[0]: random_factors("lora", [320, 320])})
    for source, flags, message in (
        (tmp_path / "nothing.safetensors", [], "nothing.safetensors is missing"),
        (tmp_path / "a.ckpt", [], "is a pickle"),
        (tmp_path / "short.safetensors", [], "is empty: 1 bytes"),
        (tmp_path, [], "name the file"),
        (wide, ["--base", str(base)], "is for another base model than"),
    ):
        assert main([str(source), out, "--to", "kohya", *flags]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_file_is_lost_neither_to_itself_nor_to_a_full_disk(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = (save(tmp_path / f"{name}.safetensors", random_layers(base, seed=ord(name))) for name in "ab")
    held = other.read_bytes()
    (tmp_path / "pytorch_lora_weights.safetensors").symlink_to(file)
    for source in (file, tmp_path):
        assert main([str(source), str(file), "--to", "kohya"]) == 1
        assert "which is read; name another file to write" in capsys.readouterr().err

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ppsd.formats.safetensors_file.os.fsync", full)
    assert main([str(file), str(other), "--to", "kohya"]) == 1
    assert capsys.readouterr().err.endswith(f"{other}: No space left on device\n")
    assert other.read_bytes() == held
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
