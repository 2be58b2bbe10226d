"""tools/annotate.py on folders of images: what is written, what training reads of it, what each flag does."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsd.data.annotating import pictures
from ppsd.data.annotators import annotator_of
from ppsd.data.annotators.landmarks import draw_landmarks
from ppsd.data.config import StreamConfig
from ppsd.data.loader import StreamLoader
from ppsd.data.source import open_sources
from ppsd.formats.image_folder import read_image_folder
from ppsd.formats.items import FolderItem
from tests.data.scenes import disagreement, png, scene, write_scenes
from tests.data.streams import take
from tests.data.test_annotator_points import face
from tests.images import encode, jpeg_bytes, noise_image
from tests.tiny import tiny_tokenizer
from tools import annotate

FIXTURE = Path(__file__).parents[1] / "fixtures" / "annotators"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with 6 scenes in `in`."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "in", 6, conditioning_image=None)
    return tmp_path


def run(*flags: str, source: str = "in", output: str = "out", annotator: str = "grey") -> int:
    argv = ["--input", source, "--output_path", output, "--annotator", annotator, "--disable_tqdm"]
    return annotate.main([*argv, *(() if "--num_workers" in flags else ("--num_workers", "0")), *flags])


def rows(path: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path, "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def files(path: str) -> dict[str, bytes]:
    found = (file for file in sorted(Path(path).rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def pixels_of(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def test_training_reads_what_was_written(folder: Path) -> None:
    assert run() == 0
    assert [row["conditioning_image"] for row in rows()] == [f"conditioning_image/{n}.jpg.png" for n in range(6)]
    config = StreamConfig(
        train_data_dir="out", conditions=("conditioning",), resolution=64, random_flip=True, num_lanes=2
    )
    (source,) = open_sources(config)
    assert source.length == 6
    for batch in take(StreamLoader(config, tiny_tokenizer(), batch_size=3), 2):
        for pixels, condition in zip(batch["pixels"].numpy(), batch["conditioning"].numpy()):
            assert disagreement(pixels, condition) < 0.004


@pytest.mark.parametrize("name", ["canny:50,120", "outlines", "color", "grey", "blur", "shuffle"])
def test_pictures_are_the_annotators_of_the_images(folder: Path, name: str) -> None:
    """From the pixels and a seed of the image's bytes."""
    before = files("in")
    assert run(annotator=name) == 0
    assert files("in") == before
    for n in range(6):
        assert Path(f"out/{n}.jpg").read_bytes() == before[f"{n}.jpg"]
        written = pixels_of(f"out/conditioning_image/{n}.jpg.png")
        assert written.shape == (3, 90, 120)
        if name not in ("blur", "shuffle"):
            assert np.array_equal(written, annotator_of(name)(pixels_of(f"in/{n}.jpg"), 0))


def test_other_columns_captions_and_pictures_are_kept(folder: Path) -> None:
    lines = rows("in")
    lines[0] |= {"mask": "c/0.png", "score": 0.25, "captions": ["one", "two"], "tags": ["a", None]}
    lines[1] |= {"text": "ein Schloß 城堡"}
    Path("in/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run() == 0
    first, second = rows()[:2]
    assert first == {
        "file_name": "0.jpg",
        "text": "scene 0",
        "captions": ["one", "two"],
        "mask": "c/0.png",
        "conditioning_image": "conditioning_image/0.jpg.png",
        "score": 0.25,
        "tags": ["a", None],
    }
    assert Path("out/c/0.png").read_bytes() == Path("in/c/0.png").read_bytes()
    assert second["text"] == "ein Schloß 城堡"


def test_what_cannot_be_used_is_counted_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/1.jpg").write_bytes(Path("in/1.jpg").read_bytes()[:700])
    Path("in/2.jpg").write_bytes(b"no image")
    Path("in/4.jpg").unlink()
    assert run() == 0
    printed = capsys.readouterr().out
    assert "3 samples used, 3 records skipped" in printed
    assert "1 corrupt image, e.g.\n    in/metadata.jsonl:2 in/1.jpg: " in printed
    assert "1 not an image, e.g.\n    in/metadata.jsonl:3 in/2.jpg: " in printed
    assert "1 missing image, e.g.\n    in/metadata.jsonl:5 " in printed
    assert [row["file_name"] for row in rows()] == ["0.jpg", "3.jpg", "5.jpg"]
    assert not Path("out/1.jpg").exists()


def test_nothing_that_can_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(6):
        Path(f"in/{n}.jpg").write_bytes(b"no image")
    assert run() == 1
    assert "nothing was written: no usable image" in capsys.readouterr().err
    assert not Path("out/metadata.jsonl").exists()


def dies_after(count: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> None:
    """Do `work` in a child that is gone, without a word, when it has begun to write picture number `count`."""
    if not (child := os.fork()):
        calls = iter(range(count))
        original = pictures.png_of

        def png_of(*args: Any) -> bytes:
            if next(calls, None) is None:
                os._exit(9)
            return original(*args)

        monkeypatch.setattr(pictures, "png_of", png_of)
        pictures.maker_of.cache_clear()
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


class Counted:
    """How many pictures are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = pictures.png_of

        def png_of(*args: Any) -> bytes:
            self.count += 1
            return original(*args)

        monkeypatch.setattr(pictures, "png_of", png_of)


@pytest.mark.parametrize("after", [0, 1, 4, 5])
def test_killed_and_started_again(
    folder: Path, after: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No picture is made twice, none is missing, and all are what an uninterrupted run writes."""
    dies_after(after, monkeypatch, lambda: run(annotator="shuffle"))
    assert not Path("out/metadata.jsonl").exists()
    Path("out/conditioning_image").mkdir(exist_ok=True)
    Path("out/conditioning_image/.5.jpg.png.0a0b0c0d.tmp").write_bytes(b"half")
    counted = Counted(monkeypatch)
    assert run(annotator="shuffle") == 0
    assert counted.count == 6 - after
    assert (f"{after} of them were there already" in capsys.readouterr().out) == (after > 0)
    again = files("out")
    assert run(annotator="shuffle") == 0
    assert counted.count == 6 - after
    assert run(annotator="shuffle", output="whole") == 0
    assert again == files("whole") == files("out")


def test_half_a_picture_does_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that is not whole, which only another tool can leave, nor one whose image is not."""
    assert run() == 0
    expected = files("out")
    Path("out/conditioning_image/0.jpg.png").write_bytes(expected["conditioning_image/0.jpg.png"][:20])
    Path("out/conditioning_image/1.jpg.png").write_bytes(png(scene()))
    Path("out/2.jpg").write_bytes(b"half")
    Path("out/3.jpg").unlink()
    counted = Counted(monkeypatch)
    assert run() == 0
    assert counted.count == 4
    assert files("out") == expected


def test_only_what_has_changed_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run() == 0
    changed = encode(scene(seed=77), quality=95)
    Path("in/2.jpg").write_bytes(changed)
    counted = Counted(monkeypatch)
    assert run() == 0
    assert counted.count == 1
    assert Path("out/2.jpg").read_bytes() == changed
    others = (("--resolution", "30"), "grey"), ((), "canny"), ((), "canny:1,2"), (("--seed", "3"), "canny:1,2")
    for flags, annotator in others:
        counted.count = 0
        assert run(*flags, annotator=annotator) == 0
        assert counted.count == 6
    assert run("--column", "depth", annotator="canny") == 0
    assert set(rows()[0]) == {"file_name", "text", "depth"}


def test_workers_write_the_same_files(folder: Path) -> None:
    assert run("--num_workers", "0", annotator="shuffle") == 0
    assert run("--num_workers", "2", output="out2", annotator="shuffle") == 0
    assert files("out") == files("out2")


def test_resolution(folder: Path) -> None:
    for value, size in (("512", (120, 90)), ("0", (120, 90)), ("45", (60, 45)), ("31", (41, 31))):
        assert run("--resolution", value) == 0
        assert Image.open("out/conditioning_image/0.jpg.png").size == size
    config = StreamConfig(train_data_dir="out", conditions=("conditioning",), resolution=64, num_lanes=1)
    (batch,) = take(StreamLoader(config, tiny_tokenizer(), batch_size=6), 1)
    for pixels, condition in zip(batch["pixels"].numpy(), batch["conditioning"].numpy()):
        assert disagreement(pixels, condition, margin=2) < 0.01


def test_seed(folder: Path) -> None:
    made = []
    for seed in ("0", "0", "1"):
        assert run("--seed", seed, annotator="shuffle") == 0
        made.append(files("out/conditioning_image"))
    assert made[0] == made[1]
    assert (
        pixels_of("out/conditioning_image/0.jpg.png").tobytes()
        != Image.open(io.BytesIO(made[0]["0.jpg.png"])).convert("RGB").tobytes()
    )
    assert made[0]["0.jpg.png"] != made[0]["1.jpg.png"]


def test_a_column_that_is_there_is_kept_unless_it_is_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = rows("in")
    lines[3]["conditioning_image"] = "c/3.png"
    Path("in/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(annotator="canny") == 0
    assert "1 of them had the column already, which was kept" in capsys.readouterr().out
    given = Path("in/c/3.png").read_bytes()
    assert rows()[3]["conditioning_image"] == "c/3.png"
    assert Path("out/c/3.png").read_bytes() == given
    assert not Path("out/conditioning_image/3.jpg.png").exists()
    assert run("--overwrite", annotator="canny") == 0
    assert "had the column" not in capsys.readouterr().out
    assert np.array_equal(
        pixels_of("out/conditioning_image/3.jpg.png"), annotator_of("canny")(pixels_of("in/3.jpg"), 0)
    )
    assert Path("in/c/3.png").read_bytes() == given


def test_columns_of_image_and_caption(folder: Path) -> None:
    lines = [{"picture": f"{n}.jpg", "prompt": f"p {n}"} for n in range(3)]
    Path("in/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("--image_column", "picture", "--caption_column", "prompt", "--column", "hint") == 0
    assert rows()[2] == {"file_name": "2.jpg", "prompt": "p 2", "hint": "hint/2.jpg.png"}
    config = StreamConfig(
        train_data_dir="out", caption_column="prompt", conditions=("conditioning",), conditioning_image_column="hint"
    )
    (source,) = open_sources(config)
    assert source.length == 3
    assert Path("out/contact_sheet.hint.png").is_file()


def test_a_jsonl_file_beside_its_output(folder: Path) -> None:
    lines = [{"image": f"in/{n}.jpg", "caption": f"c {n}"} for n in range(3)]
    Path("data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(source="data.jsonl") == 0
    assert rows()[1] == {
        "file_name": "in/1.jpg",
        "text": "c 1",
        "conditioning_image": "conditioning_image/in/1.jpg.png",
    }


def test_folders_with_repeats_have_no_captions_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when a run is killed, nor of a class that the input has no more."""
    monkeypatch.chdir(tmp_path)
    for name in ("10_a dog/0", "10_a dog/1", "2_toy/0"):
        path = Path("in", f"{name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_bytes(80, 70, seed=len(name)))
    dies_after(1, monkeypatch, run)
    assert list(read_image_folder("out")) == []
    assert run() == 0
    assert len(list(read_image_folder("out"))) == 3
    shutil.rmtree("in/2_toy")
    assert run() == 0
    captions = [item.caption for _, item in read_image_folder("out") if isinstance(item, FolderItem)]
    assert captions == ["a dog", "a dog"]


def test_folders_with_repeats_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("10_a dog/0", "10_a dog/sub/1", "2_toy/0", "plain/0", "top"):
        path = Path("in", f"{name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_bytes(80, 70, seed=len(name)))
        path.with_suffix(".txt").write_text(name)
    assert run() == 0
    settings: dict[str, Any] = {"conditions": ("conditioning",), "resolution": 64}
    (before,) = open_sources(StreamConfig(train_data_dir="in", annotator="grey", **settings))
    (after,) = open_sources(StreamConfig(train_data_dir="out", **settings))
    described = []
    for source in (before, after):
        found = [(source.records[n], int(source.counts[n])) for n in range(len(source.records))]
        described.append(sorted((r.caption, r.image, r.meta.get("class_token"), count) for r, count in found))
    assert described[0] == described[1]
    assert [entry[3] for entry in described[0]] == [10, 10, 2, 1, 1]
    assert not after.bad
    assert Path("out/10_a dog/conditioning_image/sub/1.jpg.png").is_file()
    assert Path("out/_root/top.jpg").is_file()


def test_images_without_captions_and_those_of_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/x.jpg").write_bytes(jpeg_bytes())
    Path("secret.png").write_bytes(png(scene()))
    lines = [
        {"file_name": "../elsewhere/x.jpg", "text": "x"},
        {"file_name": "0.jpg"},
        {"file_name": "1.jpg", "text": "1", "conditioning_image": "../secret.png"},
    ]
    Path("in/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run() == 0
    printed = capsys.readouterr().out
    assert "1 samples used, 2 records skipped" in printed
    assert "1 image outside of the data set, e.g.\n    in/metadata.jsonl:3 " in printed
    (row,) = rows()
    assert row["file_name"].startswith("_outside/")
    assert Path("out", row["file_name"]).read_bytes() == jpeg_bytes()


def test_the_contact_sheet_has_images_above_their_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--num_shown", "4") == 0
    assert "Contact sheet: out/contact_sheet.conditioning_image.png" in capsys.readouterr().out
    sheet = np.asarray(Image.open("out/contact_sheet.conditioning_image.png"))
    assert sheet.shape == (8 + 2 * 200 + 8, 4 * 200 + 8, 3)
    for column in range(4):
        across = slice(8 + 200 * column, 8 + 200 * column + 192)
        above, below = sheet[8 + 24 : 8 + 168, across], sheet[208 + 24 : 208 + 168, across]
        assert disagreement(above.transpose(2, 0, 1), below.transpose(2, 0, 1)) < 0.004
    assert len({sheet[8:200, 8 + 200 * n : 200 + 200 * n].tobytes() for n in range(4)}) == 4
    assert run("--contact_sheet", "sheets/mine.png", "--num_shown", "16", output="out2") == 0
    assert Image.open("sheets/mine.png").size == (6 * 200 + 8, 8 + 2 * 200 + 8)
    assert not Path("out2/contact_sheet.conditioning_image.png").exists()
    assert run("--num_shown", "0", output="out3") == 0
    assert not list(Path("out3").glob("contact*"))


def test_depth_by_a_network_keeps_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written with 16 bits, read by the stream as it was made."""
    from ppsd.models.annotators import load_annotator

    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    image = noise_image(64, 64, 3)
    image.save("in/0.png")
    Path("in/0.txt").write_text("noise")
    model = str(FIXTURE / "depth")
    assert run("--annotator_model", model, "--column", "depth", annotator="depth") == 0
    assert Image.open("out/depth/0.png.png").mode.startswith("I;16")
    expected = load_annotator("depth", model)(np.asarray(image).transpose(2, 0, 1), 0)
    config = StreamConfig(
        train_data_dir="out", conditions=("depth",), resolution=64, enable_bucket=True, min_bucket_reso=64,
        max_bucket_reso=64, num_lanes=1,
    )  # fmt: skip
    (batch,) = take(StreamLoader(config, tiny_tokenizer(), batch_size=1), 1)
    assert np.abs(batch["depth"].numpy()[0] - expected).max() < 1 / 65535
    assert len(np.unique(expected)) > 256


@pytest.mark.slow
def test_a_network_in_workers(folder: Path) -> None:
    flags = ("--annotator_model", str(FIXTURE / "hed"))
    assert run(*flags, annotator="hed") == 0
    assert run(*flags, "--num_workers", "1", annotator="hed", output="out2") == 0
    assert files("out/conditioning_image") == files("out2/conditioning_image")


def test_a_network_that_cannot_be_had(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    assert run("--annotator_model", "empty", annotator="depth") == 1
    assert "annotate.py: error: --annotator_model: empty is empty; a DPTForDepth" in capsys.readouterr().err
    assert not Path("out").exists()


def points_rows(value: Callable[[int], Any]) -> None:
    lines = [{"file_name": f"{n}.jpg", "text": "x", "points": value(n)} for n in range(2)]
    Path("in/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("way", ["list", "file", "suffix"])
def test_landmarks_from_a_column_or_files(folder: Path, way: str) -> None:
    points = face() * (120 / 512, 90 / 512)
    flags = ("--points_column", "points")
    if way == "list":
        points_rows(lambda n: points.tolist())
    elif way == "file":
        (folder / "in/p").mkdir()
        np.save("in/p/face.npy", points)
        points_rows(lambda n: "p/face.npy")
    else:
        points_rows(lambda n: None)
        for n in range(2):
            Path(f"in/{n}_ldmks.txt").write_text("".join(f"{x} {y}\n" for x, y in points))
        flags = ("--points_suffix", "_ldmks.txt")
    assert run(*flags, annotator="landmarks") == 0
    assert np.array_equal(pixels_of(f"out/{rows()[1]['conditioning_image']}"), draw_landmarks(points, (120, 90)))
    assert run(*flags, "--resolution", "45", annotator="landmarks") == 0
    assert np.array_equal(pixels_of(f"out/{rows()[1]['conditioning_image']}"), draw_landmarks(points / 2, (60, 45)))


def test_rows_of_one_image_keep_their_own_pictures(folder: Path) -> None:
    """Of other points, and with other masks."""
    (folder / "in/m").mkdir()
    lines: list[dict[str, Any]] = []
    for n in range(2):
        Path(f"in/m/{n}.png").write_bytes(png(scene(seed=n + 30)))
        points = (face() / (4 + n)).tolist()
        lines.append({"file_name": "0.jpg", "text": f"{n}", "points": points, "mask": f"m/{n}.png"})
    Path("in/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("--points_column", "points", annotator="landmarks") == 0
    for n, row in enumerate(rows()):
        drawn = pixels_of(f"out/{row['conditioning_image']}")
        assert np.array_equal(drawn, draw_landmarks(face() / (4 + n), (120, 90)))
        assert Path("out", row["mask"]).read_bytes() == png(scene(seed=n + 30))


def test_a_picture_that_cannot_be_read_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows("in")
    lines[2]["mask"] = "c/empty.png"
    Path("in/c/empty.png").touch()
    Path("in/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run() == 0
    assert "1 mask: empty image, e.g.\n    in/metadata.jsonl:3 " in capsys.readouterr().out


def test_points_that_change_are_drawn_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points_rows(lambda n: "p.json")
    Path("in/p.json").write_text(json.dumps((face() / 10).tolist()))
    assert run("--points_column", "points", annotator="landmarks") == 0
    counted = Counted(monkeypatch)
    assert run("--points_column", "points", annotator="landmarks") == 0
    assert counted.count == 0
    Path("in/p.json").write_text(json.dumps((face() / 9).tolist()))
    assert run("--points_column", "points", annotator="landmarks") == 0
    assert counted.count == 2


def test_points_that_are_not_there_or_not_in_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("secret.json").write_text(json.dumps(face().tolist()))
    values = {0: "../secret.json", 1: "gone.json"}
    points_rows(values.__getitem__)
    assert run("--points_column", "points", annotator="landmarks") == 1
    printed = capsys.readouterr().out
    assert "1 image outside of the data set, e.g.\n    in/metadata.jsonl:1 in/0.jpg: " in printed
    assert "1 unreadable points, e.g.\n    in/metadata.jsonl:2 in/1.jpg: in/gone.json: No such file" in printed
    assert run("--points_column", "nose", annotator="landmarks") == 1
    assert "2 no points, e.g.\n    in/metadata.jsonl:1 in/0.jpg: nothing under 'nose'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "annotator", "message"),
    [
        ((), "cany", "--annotator cany is not one of canny"),
        ((), "depth", "--annotator depth needs --annotator_model"),
        (("--annotator_model", "x"), "grey", "--annotator grey needs no network"),
        ((), "landmarks", "--annotator landmarks draws points: give --points_column or --points_suffix"),
        ((), "pose", "there is no network for poses here: OpenPose (--write_json) and controlnet_aux's"),
        (("--points_column", "p", "--points_suffix", "s"), "landmarks", "give --points_column or --points_suffix"),
        (("--points_suffix", "s"), "grey", "--points_suffix is for --annotator landmarks and pose"),
        (("--column", "a/b"), "grey", "name 'a/b': expected a name for files"),
        (("--column", "Hint"), "grey", "--column: 'Hint' cannot be one"),
        (("--column", "text"), "grey", "--column: 'text' cannot be one"),
    ],
)
def test_wrong_command_lines(
    flags: tuple[str, ...], annotator: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*flags, annotator=annotator)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_of_the_user_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/metadata.jsonl").write_text("precious")
    before = files(".")
    for output, message in (
        ("in", "what is written to in would lie in it or replace it"),
        ("in/out", "would lie in it or replace it"),
        ("mine", "--output_path mine: has files in it that were not written here"),
    ):
        assert run(output=output) == 1
        assert message in capsys.readouterr().err
    assert run("--output_name", "x") == 1
    assert "--output_name x: in is of images" in capsys.readouterr().err
    assert run(source="gone") == 1
    assert "--input gone: there is no such file or folder" in capsys.readouterr().err
    assert files(".") == before


def test_killed_before_the_first_picture(folder: Path) -> None:
    """What is left of a marker that was being written is not taken for a file of the user."""
    Path("out").mkdir()
    Path("out/..annotated.json.0a0b0c0d.tmp").write_bytes(b"{")
    assert run() == 0
    assert len(rows()) == 6


def test_images_in_a_folder_that_pictures_are_written_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"file_name": "conditioning_image/0.jpg", "text": "x"}]
    (folder / "in/conditioning_image").mkdir()
    Path("in/0.jpg").rename("in/conditioning_image/0.jpg")
    Path("in/metadata.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert run() == 1
    assert "pictures are written to a folder conditioning_image; rename" in capsys.readouterr().err
    assert run("--column", "hint", output="out2") == 0
