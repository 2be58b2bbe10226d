from __future__ import annotations

import json
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ppsd.formats.safetensors_file import DTYPES, SafetensorsFile, Spec, write_order, write_safetensors

ARRAYS: dict[str, tuple[str, np.ndarray]] = {
    "odd": ("F32", np.arange(3, dtype=np.float32)),
    "half": ("F16", np.array([[1.5, -2.0]], np.float16)),
    "ids": ("I64", np.array([2**40, -1])),
    "scalar": ("F32", np.array(7.0, np.float32)),
    "nothing": ("F32", np.zeros((0, 4), np.float32)),
    "größe": ("U8", np.array([1, 2, 3], np.uint8)),
}


def write(path: Path, arrays: dict[str, tuple[str, np.ndarray]], metadata: Any = None) -> Any:
    specs = {name: Spec(dtype, array.shape) for name, (dtype, array) in arrays.items()}
    return write_safetensors(path, specs, lambda name: arrays[name][1], metadata)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / "a", ARRAYS, {"format": "pd"})
    loaded = load_file(tmp_path / "a")
    assert loaded.keys() == ARRAYS.keys()
    for name, (_, array) in ARRAYS.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded[name], array)


def test_bfloat16_is_its_upper_bits(tmp_path: Path) -> None:
    """1.5 is 0x3FC0."""
    write(tmp_path / "a", {"x": ("BF16", np.array([0x3FC0], np.uint16))})
    source = SafetensorsFile(tmp_path / "a")
    assert source.specs["x"] == Spec("BF16", (1,))
    assert source.read("x").tolist() == [0x3FC0]


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    save_file({name: array for name, (_, array) in ARRAYS.items()}, tmp_path / "a", {"k": "v"})
    source = SafetensorsFile(tmp_path / "a")
    assert source.metadata == {"k": "v"}
    for name, (dtype, array) in ARRAYS.items():
        assert source.specs[name] == Spec(dtype, array.shape)
        np.testing.assert_array_equal(source.read(name), array)


def test_the_digest_is_the_files_and_its_mode_the_umasks(tmp_path: Path) -> None:
    digest = write(tmp_path / "a", ARRAYS)
    content = (tmp_path / "a").read_bytes()
    assert digest == (len(content), zlib.crc32(content))
    (tmp_path / "other").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_every_tensor_starts_at_a_multiple_of_its_item_size(tmp_path: Path) -> None:
    write(tmp_path / "a", ARRAYS)
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8 : 8 + length]).items():
        assert (8 + length + entry["data_offsets"][0]) % np.dtype(DTYPES[entry["dtype"]]).itemsize == 0, name


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    specs = {f"{n}": Spec("F32", (1000,)) for n in range(6)}
    made: list[weakref.ref[np.ndarray]] = []

    def read(name: str) -> np.ndarray:
        assert not any(ref() is not None for ref in made)
        array = np.full(1000, float(name), np.float32)
        made.append(weakref.ref(array))
        return array

    write_safetensors(tmp_path / "a", specs, read)
    assert len(made) == 6
    assert [SafetensorsFile(tmp_path / "a").read(name)[0] for name in write_order(specs)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_a_file_cut_short_is_an_error_with_its_name(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "weights", ARRAYS)
    content = (tmp_path / "weights").read_bytes()
    (tmp_path / "weights").write_bytes(content[:cut])
    with pytest.raises(ValueError, match=r"weights: not a whole safetensors file"):
        SafetensorsFile(tmp_path / "weights")
    with pytest.raises(ValueError, match=r"gone is missing"):
        SafetensorsFile(tmp_path / "gone")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_with_the_files_name() -> None:
    with pytest.raises(OSError, match="/dev/full"):
        write(Path("/dev/full"), {"x": ("F32", np.zeros(10**6, np.float32))})
