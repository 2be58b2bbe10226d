"""What is done with which image, and that the model is shown each one once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsd.data.captioning import NO_TAGS, Rules, carry_out, make_plan, with_tags
from ppsd.formats.caption_files import SidecarCaptions
from ppsd.formats.caption_rows import MetadataCaptions
from tests.images import noise_image


@pytest.mark.parametrize(
    ("caption", "tags", "undesired", "expected"),
    [
        ("a cat on a mat", ["cat", "red"], None, "a cat on a mat, cat, red"),
        ("a cat, red", ["red", "mat"], None, "a cat, red, mat"),
        ("a cat", ["red", "mat"], "red, blue", "a cat, mat"),
        ("a cat, red", [], "red", "a cat"),
        ("red", ["red"], "red", ""),
        (None, ["red", "mat"], "Red", "red, mat"),
        ("", [], None, ""),
    ],
)
def test_with_tags(caption: str, tags: list[str], undesired: str, expected: str) -> None:
    assert with_tags(caption, tags, undesired) == expected


class Counter:
    """Says how bright a picture is, and keeps what it was shown."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []

    def picture(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image, np.float32).mean(axis=(0, 1))

    def captions(self, pictures: np.ndarray, names: Sequence[str]) -> list[str]:
        self.batches.append(tuple(names))
        return [f"{picture.mean():.0f}" for picture in pictures]


def folder(path: Path, count: int) -> Path:
    for number in range(count):
        Image.new("RGB", (8, 8), (number, number, number)).save(path / f"{number:02d}.png")
    return path


@pytest.mark.parametrize("workers", [1, 4])
def test_images_keep_their_order_and_bad_ones_leave_smaller_batches(tmp_path: Path, workers: int) -> None:
    store = SidecarCaptions(folder(tmp_path, 11))
    for name in ("02.png", "05.png"):
        (tmp_path / name).write_bytes(b"none")
    (tmp_path / "03.txt").write_text("kept")
    rules, speaker, done = Rules(batch_size=3, num_workers=workers), Counter(), []
    store = SidecarCaptions(tmp_path)
    plan = make_plan(store.items(), store, rules, has_model=True)
    report = carry_out(plan, store, rules, speaker, lambda: done.append(1))
    assert speaker.batches == [("00.png", "01.png"), ("04.png", "06.png"), ("07.png", "08.png", "09.png"), ("10.png",)]
    assert (report.written, report.kept, report.skipped.counts) == (8, 1, {"not an image": 2})
    assert len(done) == 10
    assert report.examples == [("00.png", "0"), ("01.png", "1"), ("04.png", "4")]
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.txt")} == {
        **{f"{n:02d}": f"{n}\n" for n in (0, 1, 4, 6, 7, 8, 9, 10)},
        "03": "kept",
    }


def test_captions_that_are_written_stay_when_the_model_fails(tmp_path: Path) -> None:
    folder(tmp_path, 4)

    class Failing(Counter):
        def captions(self, pictures: np.ndarray, names: Sequence[str]) -> list[str]:
            if "02.png" in names:
                raise MemoryError("of the GPU")
            return super().captions(pictures, names)

    store, rules = SidecarCaptions(tmp_path), Rules(batch_size=1)
    with pytest.raises(MemoryError):
        carry_out(make_plan(store.items(), store, rules, True), store, rules, Failing(), lambda: None)
    store, speaker = SidecarCaptions(tmp_path), Counter()
    carry_out(make_plan(store.items(), store, rules, True), store, rules, speaker, lambda: None)
    assert speaker.batches == [("02.png",), ("03.png",)]


def test_without_a_model_images_are_not_opened(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    store, rules = SidecarCaptions(tmp_path), Rules(tags={"a.png": ("cat",)})
    plan = make_plan(store.items(), store, rules, has_model=False)
    report = carry_out(plan, store, rules, None, lambda: None)
    assert (tmp_path / "a.txt").read_text() == "cat\n"
    assert report.skipped.counts == {NO_TAGS: 1}


def test_a_caption_that_is_no_text_is_replaced_only_when_asked(tmp_path: Path) -> None:
    noise_image().save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xff\xff")
    for overwrite, written in ((False, 0), (True, 1)):
        store, rules = SidecarCaptions(tmp_path), Rules(overwrite=overwrite)
        plan = make_plan(store.items(), store, rules, has_model=True)
        assert (len(plan.new), plan.skipped.skipped) == (written, 1 - written)


def test_overwriting_metadata_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    rows = [{"file_name": f"{number:02d}.png", "text": "old"} for number in range(4)]
    (folder(tmp_path, 4) / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules, speaker = Rules(overwrite=True, batch_size=1), Counter()
    MetadataCaptions(tmp_path).write("01.png", "new already")
    for expected in (["00.png", "02.png", "03.png"], ["00.png", "01.png", "02.png", "03.png"]):
        store = MetadataCaptions(tmp_path)
        speaker.batches.clear()
        carry_out(make_plan(store.items(), store, rules, True), store, rules, speaker, lambda: None)
        assert [name for batch in speaker.batches for name in batch] == expected
    texts = [json.loads(line)["text"] for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert texts == ["0", "1", "2", "3"]
