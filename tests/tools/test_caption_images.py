"""tools/caption_images.py: every flag, what is kept and what is skipped, and a run that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from PIL import Image

from ppsd.formats.image_folder import read_image_folder
from ppsd.formats.items import FolderItem
from ppsd.interop.blip import load_blip
from ppsd.interop.blip_speaker import BlipSpeaker, Speech
from ppsd.models.blip import BlipWriter
from tests.images import noise_image
from tests.tiny_blip import blip_folder
from tools import caption_images
from tools.caption_images import main, parse_args

ROOT = Path(__file__).parents[2]
SHORT = ["--max_length", "10", "--disable_tqdm"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(blip_folder(tmp_path_factory.mktemp("model") / "blip", torch=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


def make_photos(folder: Path, count: int = 5) -> Path:
    """0.png ... and sub/0.png, all different."""
    (folder / "sub").mkdir(parents=True)
    for number in range(count):
        noise_image(40, 30, seed=number).save(folder / f"{number}.png")
    noise_image(30, 40, seed=99).save(folder / "sub" / "0.png")
    return folder


def caption(folder: Path, blip: Optional[str], *flags: object) -> int:
    model = ["--pretrained_model_name_or_path", blip, *SHORT] if blip else ["--disable_tqdm"]
    return main([str(folder), *model, *map(str, flags)])


def captions(folder: Path) -> dict[str, Optional[str]]:
    """What ppsd reads."""
    found = (item for _, item in read_image_folder(folder))
    return {str(item.image.relative_to(folder)): item.caption for item in found if isinstance(item, FolderItem)}


def spoken(folder: Path, names: Sequence[str], blip: str, **speech: Any) -> dict[str, str]:
    """What the model says of each image alone."""
    speaker = BlipSpeaker(load_blip(blip, "--x"), Speech(**{"max_length": 10, **speech}))
    pictures = {name: speaker.picture(Image.open(folder / name).convert("RGB"))[None] for name in names}
    return {name: speaker.captions(picture, [name])[0] for name, picture in pictures.items()}


NAMES = [f"{number}.png" for number in range(5)]


def test_each_image_gets_the_caption_of_the_model(photos: Path, blip: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = spoken(photos, NAMES, blip)
    assert len(set(expected.values())) > 1
    assert caption(photos, blip, "--batch_size", 2) == 0
    assert captions(photos) == {**expected, "sub/0.png": None}
    assert (photos / "0.txt").read_text() == expected["0.png"] + "\n"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 captions written, 0 kept, 0 images skipped"
    assert lines[1:] == [f"{name}: {expected[name]}" for name in NAMES[:3]]


def test_train_data_dir_is_a_flag_too_and_subfolders_are_asked_for(photos: Path, blip: str) -> None:
    flags = ["--pretrained_model_name_or_path", blip, *SHORT, "--recursive"]
    assert main(["--train_data_dir", str(photos), *flags]) == 0
    assert captions(photos) == spoken(photos, [*NAMES, "sub/0.png"], blip)


def test_captions_that_are_there_are_kept_unless_overwritten(
    photos: Path, blip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.txt").write_text("mine")
    (photos / "2.caption").write_text("")
    expected = spoken(photos, NAMES, blip)
    assert caption(photos, blip) == 0
    assert captions(photos) == {**expected, "1.png": "mine", "2.png": "", "sub/0.png": None}
    assert "3 captions written, 2 kept, 0 images skipped" in capsys.readouterr().out
    assert caption(photos, blip, "--overwrite") == 0
    assert captions(photos) == {**expected, "sub/0.png": None}
    assert "5 captions written, 0 kept" in capsys.readouterr().out


def test_caption_extension(photos: Path, blip: str, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "1.txt").write_text("tags of mine")
    assert caption(photos, blip, "--caption_extension", ".caption", "--overwrite") == 0
    assert sorted(path.name for path in photos.glob("*.caption")) == [
        "0.caption",
        "2.caption",
        "3.caption",
        "4.caption",
    ]
    assert captions(photos)["1.png"] == "tags of mine", "what would not be read is not written"
    out = capsys.readouterr().out
    assert "1 images skipped" in out
    assert "1.txt is read before 1.caption" in out
    assert (
        parse_args([str(photos), "--tags_file", "x", "--caption_extention", ".caption"]).caption_extension == ".caption"
    )


@pytest.mark.parametrize(
    ("flags", "speech"),
    [
        (["--prompt", "a photo of"], {"prompt": "a photo of"}),
        (["--num_beams", 3], {"num_beams": 3}),
        (["--num_beams", 3, "--top_p", 0.9, "--beam_search"], {"num_beams": 3}),
        (["--top_p", 0.9], {"top_p": 0.9}),
        (["--top_p", 0.9, "--seed", 7], {"top_p": 0.9, "seed": 7}),
        (["--max_length", 6], {"max_length": 6}),
        (["--min_length", 9], {"min_length": 9}),
    ],
)
def test_flags_of_the_model(photos: Path, blip: str, flags: list[object], speech: dict[str, Any]) -> None:
    """Alone or in a batch, an image has the same caption, and each flag makes another one."""
    assert caption(photos, blip, *flags) == 0
    expected = spoken(photos, NAMES, blip, **speech)
    assert captions(photos) == {**expected, "sub/0.png": None}
    without = {name: value for name, value in speech.items() if name != next(reversed(speech))}
    assert expected != spoken(photos, NAMES, blip, **without)


def test_batches_and_threads_are_as_large_as_asked_for(photos: Path, blip: str, monkeypatch: Any) -> None:
    sizes: list[int] = []
    threads: set[str] = set()

    def writer(model: Any, pictures: Any) -> BlipWriter:
        sizes.append(len(pictures))
        return BlipWriter(model, pictures)

    def picture(self: Any, image: Image.Image) -> Any:
        threads.add(threading.current_thread().name)
        time.sleep(0.05)
        return shown(self, image)

    shown = BlipSpeaker.picture
    monkeypatch.setattr("ppsd.interop.blip_speaker.BlipWriter", writer)
    monkeypatch.setattr(BlipSpeaker, "picture", picture)
    assert caption(photos, blip, "--batch_size", 2, "--num_workers", 3) == 0
    assert sizes == [2, 2, 1]
    assert len(threads) == 3
    threads.clear()
    assert caption(photos, blip, "--overwrite", "--max_data_loader_n_workers", 1) == 0
    assert len(threads) == 1


def test_device(photos: Path, blip: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    asked: list[str] = []
    monkeypatch.setattr(caption_images, "set_device", asked.append)
    assert caption(photos, blip, "--device", "cpu") == 0
    assert asked == ["cpu"]
    monkeypatch.undo()
    assert caption(photos, blip, "--overwrite", "--device", "tpu9") == 1
    assert "--device tpu9" in capsys.readouterr().err


def test_progress_is_shown(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "tags.txt").write_text("".join(f"{name}: cat\n" for name in NAMES))
    assert main([str(photos), "--tags_file", str(photos / "tags.txt")]) == 0
    assert "5/5" in capsys.readouterr().err
    assert main([str(photos), "--tags_file", str(photos / "tags.txt"), "--overwrite", "--disable_tqdm"]) == 0
    assert capsys.readouterr().err == ""


def test_tags_alone_are_captions(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = {"0.png": "cat, mat", "1": ["red", "large circle"], "2.png": {"low": 0.2, "high": 0.9}, "gone.png": "x"}
    (photos / "tags.json").write_text(json.dumps(tags))
    assert caption(photos, None, "--tags_file", photos / "tags.json", "--undesired_tags", "mat, low,red") == 0
    assert captions(photos) == {
        **dict.fromkeys([*NAMES, "sub/0.png"]),
        "0.png": "cat",
        "1.png": "large circle",
        "2.png": "high",
    }
    out = capsys.readouterr().out
    assert "3 captions written, 0 kept, 2 images skipped" in out
    assert "2 no tags, e.g." in out
    assert "1 names of --tags_file are of no image, e.g. gone.png" in out


def test_tags_follow_what_the_model_says(photos: Path, blip: str) -> None:
    (photos / "tags.csv").write_text('file_name,tags\n0.png,"cat, mat"\n3.png,\n')
    expected = spoken(photos, NAMES, blip)
    assert caption(photos, blip, "--tags_file", photos / "tags.csv", "--undesired_tags", "mat") == 0
    assert captions(photos) == {**expected, "0.png": f"{expected['0.png']}, cat", "sub/0.png": None}


def test_append_tags_makes_captions_longer_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "0.caption").write_text("a cat, red")
    (photos / "1.txt").write_text("mine")
    (photos / "tags.txt").write_text("0.png: red, mat, watermark\n2.png\tblue\n")
    flags = ["--tags_file", photos / "tags.txt", "--append_tags", "--undesired_tags", "watermark"]
    assert caption(photos, None, *flags) == 0
    expected = {"0.png": "a cat, red, mat", "1.png": "mine", "2.png": "blue"}
    assert captions(photos) == {**dict.fromkeys([*NAMES, "sub/0.png"]), **expected}
    assert "2 captions written, 1 kept, 2 images skipped" in capsys.readouterr().out
    assert not (photos / "0.txt").exists()
    assert caption(photos, None, *flags) == 0
    assert captions(photos) == {**dict.fromkeys([*NAMES, "sub/0.png"]), **expected}
    assert "0 captions written, 3 kept" in capsys.readouterr().out


def test_metadata_gets_rows(photos: Path, blip: str) -> None:
    (photos / "1.txt").write_text("mine")
    expected = {**spoken(photos, [*NAMES, "sub/0.png"], blip), "1.png": "mine"}
    assert caption(photos, blip, "--output", "metadata", "--recursive") == 0
    rows = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
    assert rows == [{"file_name": name, "text": text} for name, text in expected.items()]
    assert captions(photos) == expected
    assert [path.name for path in photos.iterdir() if path.name.startswith(".")] == []


def test_images_that_cannot_be_read_are_counted_and_named(
    photos: Path, blip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    (photos / "2.png").write_bytes(b"")
    (photos / "3.png").write_bytes(b"no image")
    (photos / "5.gif").write_bytes(b"no image either")
    assert caption(photos, blip, "--batch_size", 2) == 0
    assert captions(photos) == {
        **dict.fromkeys([*NAMES, "5.gif", "sub/0.png"]),
        **spoken(photos, ["0.png", "4.png"], blip),
    }
    out = capsys.readouterr().out
    assert "2 captions written, 0 kept, 4 images skipped" in out
    assert "  2 not an image, e.g." in out
    assert "  1 corrupt image, e.g." in out
    assert "  1 empty image, e.g." in out
    assert str(photos / "1.png") in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "captions come from --pretrained_model_name_or_path"),
        (["--tags_file", "t", "--train_data_dir", "y"], "one folder of images is needed"),
        (["--tags_file", "t", "--num_beams", "2"], "--num_beams is for --pretrained_model_name_or_path"),
        (["--tags_file", "t", "--prompt", "a"], "--prompt is for --pretrained_model_name_or_path"),
        (["--pretrained_model_name_or_path", "m", "--append_tags"], "--append_tags adds the tags of --tags_file"),
        (["--tags_file", "t", "--append_tags", "--overwrite"], "--append_tags adds"),
        (["--tags_file", "t", "--output", "metadata", "--caption_extension", ".txt"], "is for --output sidecar"),
        (["--tags_file", "t", "--caption_extension", ".cap"], "invalid choice: '.cap'"),
        (["--pretrained_model_name_or_path", "m", "--num_beams", "2", "--top_p", "0.9"], "two ways"),
        (["--pretrained_model_name_or_path", "m", "--top_p", "1.5"], "not a number above 0 and up to 1"),
        (["--pretrained_model_name_or_path", "m", "--min_length", "80"], "--min_length 80 is above --max_length 75"),
        (["--tags_file", "t", "--undesired_tags", " ,"], "names no tag"),
        (["--tags_file", "t", "--beam_serch"], "did you mean --beam_search?"),
    ],
)
def test_wrong_command_lines(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_args(["photos", *flags])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max_length", "25"], "this model writes at most 24 tokens"),
        (["--max_length", "4", "--min_length", "0", "--prompt", "a photo of"], "leaves no place for a caption"),
        (["--pretrained_model_name_or_path", "no/such/folder/here"], "cannot load BlipForConditionalGeneration"),
    ],
)
def test_what_the_model_cannot_do(
    flags: list[str], said: str, photos: Path, blip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption(photos, blip, *flags) == 1
    assert said in capsys.readouterr().err


def test_folders_without_captions_afterwards_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = tmp_path / "tags.txt"
    tags.write_text("a.png: cat\n")
    assert caption(tmp_path, None, "--tags_file", tags) == 1
    assert "no image in it" in capsys.readouterr().err
    assert caption(tmp_path / "no", None, "--tags_file", tags) == 1
    assert "not a folder" in capsys.readouterr().err
    noise_image().save(tmp_path / "b.png")
    assert caption(tmp_path, None, "--tags_file", tags) == 1
    captured = capsys.readouterr()
    assert "1 no tags, e.g." in captured.out
    assert "has a caption now" in captured.err


SLOW = """
import sys
from ppsd.interop.blip_speaker import BlipSpeaker
from tools.caption_images import main
one_by_one = BlipSpeaker.captions
def captions(self, pictures, names):
    said = one_by_one(self, pictures, names)
    print("SAID", *names, flush=True)
    return said
BlipSpeaker.captions = captions
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("output", ["sidecar", "metadata"])
def test_killed_and_started_again_nothing_is_lost_or_redone(
    output: str, tmp_path: Path, blip: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL after the third batch of one; the second run says nothing twice, and all is as without the kill."""
    photos, calm = make_photos(tmp_path / "photos", 12), make_photos(tmp_path / "calm", 12)
    flags = ["--batch_size", "1", "--output", output]
    command = [sys.executable, "-c", SLOW, str(photos), "--pretrained_model_name_or_path", blip, *SHORT, *flags]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    before: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None
        for line in process.stdout:
            before += line.split()[1:] if line.startswith("SAID") else []
            if len(before) == 3:
                process.send_signal(signal.SIGKILL)
                break
    after: list[str] = []
    said = BlipSpeaker.captions
    monkeypatch.setattr(BlipSpeaker, "captions", lambda self, p, names: after.extend(names) or said(self, p, names))
    assert caption(photos, blip, *flags) == 0
    assert f"{len(after)} captions written, {12 - len(after)} kept" in capsys.readouterr().out
    assert {*before, *after} == {f"{number}.png" for number in range(12)}
    assert len(set(before) & set(after)) <= 1, "only what was said and not yet written"
    assert caption(calm, blip, *flags) == 0
    assert captions(photos) == captions(calm)
    assert [path.name for path in photos.iterdir() if path.name.startswith(".")] == []
