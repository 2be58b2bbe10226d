"""Conditioning images on their way through the data tools into training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.loader import StreamLoader
from ppsd.formats.filelist import read_file_list
from ppsd.formats.image_bytes import MAX_IMAGE_BYTES
from ppsd.formats.parts import read_any
from ppsd.types import Record
from tests.data.scenes import disagreement, png, scene, write_scenes
from tests.data.streams import take
from tests.tiny import tiny_tokenizer
from tools import convert_dataset, create_pretraining_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the scenes of fill50k's layout: prompt.json of target, source and prompt."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "in", 6, 2.0)
    rows = [{"target": f"{n}.jpg", "source": f"c/{n}.png", "prompt": f"scene {n}", "id": n} for n in range(6)]
    (tmp_path / "in/prompt.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def pack(input_path: str, *flags: str) -> int:
    argv = ["--input_path", input_path, "--output_path", "out", "--num_workers", "0", "--disable_tqdm", *flags]
    return create_pretraining_data.main(argv)


KEYS = ("--image_key", "target", "--caption_key", "prompt", "--conditioning_key", "source")
LIST = "out/filelist/custom_dataset.filelist.list"


def records_of(file_list: str, *more_images: str) -> list[Any]:
    parts = [part for source in read_file_list(file_list) for part in source.parts]
    return [record for part in parts for _, record in read_any(part, more_images=more_images)]


@pytest.mark.parametrize("flags", [(), ("--save_gzip_file",), ("--num_workers", "2", "--per_part_file_num", "2")])
def test_packed_and_trained_on(folder: Path, flags: tuple[str, ...]) -> None:
    assert pack("in/prompt.json", *KEYS, *flags) == 0
    found = records_of(LIST, "conditioning_image")
    assert [record.caption for record in found] == [f"scene {n}" for n in range(6)]
    for n, record in enumerate(found):
        assert dict(record.meta) == {"conditioning_image": Path(f"in/c/{n}.png").read_bytes()}
    config = StreamConfig(LIST, resolution=64, num_lanes=2, conditions=("conditioning",), random_flip=True)
    (batch,) = take(StreamLoader(config, tiny_tokenizer(), batch_size=4), 1)
    for pixels, condition in zip(batch["pixels"].numpy(), batch["conditioning"].numpy()):
        assert disagreement(pixels, condition) < 0.004


def test_without_the_flag_nothing_of_them_is_packed(folder: Path) -> None:
    assert pack("in", "--output_name", "plain") == 0
    lines = Path("out/laion400m_format_data/part-000001").read_bytes().splitlines()
    assert [line.count(b"\t") for line in lines] == [2] * 6


def test_a_folder_by_its_column(folder: Path) -> None:
    assert pack("in", "--conditioning_key", "conditioning_image") == 0
    assert all("conditioning_image" in record.meta for record in records_of(LIST, "conditioning_image"))


def test_rows_that_cannot_be_packed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each counts under its reason, with its line."""
    Path("secret.png").write_bytes(png(scene()))
    Path("in/square.png").write_bytes(png(scene(90, 90)))
    Path("in/junk.png").write_bytes(b"junk")
    names = ["c/0.png", None, "gone.png", "../secret.png", "square.png", "junk.png", str(folder / "secret.png")]
    rows = [{"image": "0.jpg", "caption": "x", **({} if name is None else {"hint": name})} for name in names]
    Path("in/rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert pack("in/rows.jsonl", "--conditioning_key", "hint") == 0
    printed = capsys.readouterr().out
    assert "1 samples used, 6 records skipped" in printed
    for count, line, reason in (
        (1, 2, "no conditioning image"),
        (1, 3, "missing image"),
        (2, 4, "image outside of the data set"),
        (1, 5, "conditioning_image: other shape than the image"),
        (1, 6, "conditioning_image: not an image"),
    ):
        assert f"  {count} {reason}, e.g.\n    in/rows.jsonl:{line} " in printed


def test_images_that_do_not_fit_into_a_line_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("in/0.jpg", "in/c/0.png"):
        data = Path(name).read_bytes()
        Path(name).write_bytes(data + os.urandom(MAX_IMAGE_BYTES // 2 - len(data) + 1))
    assert pack("in/prompt.json", *KEYS) == 0
    assert "1 image file too large, e.g." in capsys.readouterr().out
    assert len(records_of(LIST)) == 5


@pytest.mark.parametrize("through", ["laion400m", "webdataset", "parquet", "image_folder"])
def test_conversions_keep_them(folder: Path, through: str) -> None:
    """From a folder into each format and from there into a folder again: the same files."""
    columns = {"conditioning_image": "c/{n}.png", "mask": "c/{n}.png"}
    write_scenes(folder / "in", 6, 2.0, **columns)
    rows = [json.loads(line) for line in Path("in/metadata.jsonl").read_text().splitlines()]
    rows[3].pop("mask")
    Path("in/metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert convert("in", through, "first") == 0
    assert convert("first/filelist/custom_dataset.filelist.list", "image_folder", "second") == 0
    found = records_of("second/filelist/custom_dataset.filelist.list", "conditioning_image", "mask")
    for n, record in enumerate(found):
        assert isinstance(record, Record)
        assert set(record.meta) == set(rows[n]) - {"file_name", "text"}
        assert record.image == Path(f"in/{n}.jpg").read_bytes()
        for path in record.meta.values():
            assert path.read_bytes() == Path(f"in/c/{n}.png").read_bytes()
            assert path.suffix == ".png"


def convert(source: str, to: str, output: str) -> int:
    argv = ["--input", source, "--output_path", output, "--output_format", to, "--num_workers", "0", "--disable_tqdm"]
    return convert_dataset.main(argv)


def test_a_conversion_counts_conditions_that_are_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack("in/prompt.json", *KEYS) == 0
    part = Path("out/laion400m_format_data/part-000001")
    lines = part.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(lines[2].rsplit(b"\t", 1)[1], b"?\n")
    part.write_bytes(b"".join(lines))
    assert convert(str(part), "webdataset", "tars") == 0
    printed = capsys.readouterr().out
    assert f"1 conditioning_image: invalid base64, e.g.\n    {part}:3 " in printed
