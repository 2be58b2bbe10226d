"""kohya's hashes against its own procedure, done with the safetensors library."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from ppsd.adapters.places import Place
from ppsd.interop.lora import LoraFile, read_lora, write_lora

NAMES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def kohyas(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> tuple[str, str]:
    """library/train_util.py: of the bytes that safetensors makes of the tensors and the ss_ metadata."""
    data = save(tensors, {name: text for name, text in metadata.items() if name.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    legacy = hashlib.sha256(data[0x100000 : 0x100000 + 0x10000])
    return hashlib.sha256(data[start:]).hexdigest(), legacy.hexdigest()[:8]


def lora_of(width: int, metadata: dict[str, str]) -> LoraFile:
    random = np.random.default_rng(0)
    factors = {"lora_down.weight": (2, width), "lora_up.weight": (width, 2)}
    layers = {
        Place("unet", f"down_blocks.{i}.resnets.0.time_emb_proj"): {
            **{
                leaf: random.standard_normal(shape).astype(np.float16).astype(np.float32)
                for leaf, shape in factors.items()
            },
            "alpha": np.float32(1),
        }
        for i in range(3)
    }
    return LoraFile({place: {**f, "alpha": np.asarray(f["alpha"])} for place, f in layers.items()}, metadata)


@pytest.mark.parametrize("width", [4, 50_000, 140_000], ids=["below", "around", "above the first MiB"])
@pytest.mark.parametrize("metadata", [{"ss_tag_frequency": '{"a": {"é 你": 1}}', "modelspec.title": "x"}, {}])
def test_hashes_are_kohyas(tmp_path: Path, width: int, metadata: dict[str, str]) -> None:
    lora = lora_of(width, metadata)
    write_lora(tmp_path / "a.safetensors", lora, hashes=True)
    read = read_lora(tmp_path / "a.safetensors")
    tensors = {
        f"lora_unet_{place.path.replace('.', '_')}.{leaf}": value
        for place, factors in lora.layers.items()
        for leaf, value in factors.items()
    }
    expected, legacy = kohyas(tensors, metadata)
    assert [read.metadata[name] for name in NAMES] == [expected, legacy, f"0x{expected}"]
    assert {name: text for name, text in read.metadata.items() if name not in NAMES} == metadata


def test_a_header_of_more_than_a_mebibyte(tmp_path: Path) -> None:
    lora = lora_of(4, {"ss_tag_frequency": "é" * 700_000})
    write_lora(tmp_path / "a.safetensors", lora, hashes=True)
    metadata = read_lora(tmp_path / "a.safetensors").metadata
    tensors = {
        f"lora_unet_{place.path.replace('.', '_')}.{leaf}": value
        for place, factors in lora.layers.items()
        for leaf, value in factors.items()
    }
    assert metadata["sshs_legacy_hash"] == kohyas(tensors, lora.metadata)[1]


def test_hashes_follow_the_factors(tmp_path: Path) -> None:
    """Those of a converted file are made anew in kohya's form, and go where they would not hold."""
    write_lora(tmp_path / "a.safetensors", lora_of(4, {"ss_steps": "1"}), hashes=True)
    lora = read_lora(tmp_path / "a.safetensors")
    write_lora(tmp_path / "b.safetensors", lora)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    write_lora(tmp_path / "b.safetensors", lora, precision="float16")
    other = read_lora(tmp_path / "b.safetensors").metadata
    assert set(other) == set(lora.metadata)
    assert all(other[name] != lora.metadata[name] for name in ("sshs_model_hash", "modelspec.hash_sha256"))
    write_lora(tmp_path / "b.safetensors", lora, "diffusers")
    assert not set(NAMES) & set(read_lora(tmp_path / "b.safetensors").metadata)
