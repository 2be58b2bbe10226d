from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.sample import SampleMaker
from ppsd.data.tokens import TokenizeCaptions
from ppsd.formats.filelist import read_file_list
from ppsd.formats.laion import read_part
from ppsd.formats.latents import read_fingerprint, read_latents
from ppsd.models.conditioning import Conditioning
from ppsd.models.latents import posterior
from ppsd.trainers.latent_cache import encode_records
from ppsd.types import BadRecord, LatentRecord, Record, Sample
from tests.images import encode, jpeg_bytes, noise_image, part_line, write_lines, write_lists
from tests.tiny import tiny_pipeline_dir, tiny_text_encoder, tiny_tokenizer, tiny_vae

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "cache_latents.py"
_spec = importlib.util.spec_from_file_location("cache_latents", TOOL)
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def file_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weighted sources over three parts, one named twice; some records are bad."""
    folder = tmp_path_factory.mktemp("images")
    parts = []
    for p, count in enumerate([5, 4, 3]):
        lines = [part_line(f"set {p} {i}", jpeg_bytes(72, 80, seed=10 * p + i)) for i in range(count)]
        lines[1:1] = [b"one column\n", part_line("small", jpeg_bytes(40, 40))]
        parts.append(write_lines(folder / f"part-{p + 1:06d}", lines))
    return write_lists(folder, {"a": [parts[0], parts[1], parts[0]], "b": [parts[2], parts[1]]}, [1.0, 0.25])


def flags(pipeline: Path, file_list: Path, output: Path, **changes: Any) -> list[str]:
    values = {
        "pretrained_model_name_or_path": pipeline,
        "file_list": file_list,
        "output_path": output,
        "resolution": 64,
        "batch_size": 2,
        "num_workers": 1,
        "device": "cpu",
        **changes,
    }
    given = []
    for name, value in values.items():
        given += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value is not None else []
    return [*given, "--disable_tqdm"]


@pytest.fixture(scope="module")
def cached(pipeline: Path, file_list: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cached")
    assert tool.main(flags(pipeline, file_list, folder, cache_text_encoder=True)) == 0
    return folder


def part(folder: Path, number: int, name: str = "a") -> Path:
    return folder / "latents" / name / f"part-{number:06d}.safetensors"


def test_records_are_what_training_would_have_made(file_list: Path, cached: Path) -> None:
    """The same numbers, captions and bad records as the stream with --center_crop gets."""
    config = StreamConfig(str(file_list), resolution=64, center_crop=True, caption_dropout_rate=0.0)
    tokenize = TokenizeCaptions(tiny_tokenizer(), 77)
    make, vae, text_encoder = SampleMaker(config, tokenize), tiny_vae(), tiny_text_encoder()
    vae.eval(), text_encoder.eval()
    images = list(read_part(file_list.parent / "part-000001"))
    found = list(read_latents(part(cached, 1)))
    assert [number for number, _ in found] == [number for number, _ in images] == list(range(1, 8))
    for (_, latent), (_, image) in zip(found, images):
        sample = image if isinstance(image, BadRecord) else make(image, 123)
        if isinstance(sample, BadRecord):
            assert latent == sample
            continue
        assert isinstance(latent, LatentRecord)
        assert latent.caption == image.caption
        pixels = paddle.to_tensor(sample.pixels[None])
        np.testing.assert_allclose(latent.moments, posterior(vae, pixels).numpy()[0], rtol=1e-5, atol=1e-6)
        hidden = text_encoder(paddle.to_tensor(sample.input_ids[None]))[0].numpy()[0]
        np.testing.assert_allclose(latent.hidden, hidden, rtol=1e-5, atol=1e-6)
        empty = text_encoder(paddle.to_tensor(tokenize("")[None]))[0].numpy()[0]
        np.testing.assert_allclose(latent.meta["empty_hidden"], empty, rtol=1e-5, atol=1e-6)


def test_the_lists_mirror_the_images(file_list: Path, cached: Path) -> None:
    found = read_file_list(cached / "filelist" / "a.filelist.list")
    names = [[Path(path).name for path in source.parts] for source in found]
    assert names == [[f"part-00000{n}.safetensors" for n in row] for row in ([1, 2, 1], [3, 2])]
    assert [source.weight for source in found] == [1.0, 0.25]
    assert len(list(part(cached, 1).parent.iterdir())) == 3


def test_a_finished_part_is_kept_and_a_changed_one_is_made_again(
    pipeline: Path, file_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(shutil.copytree(file_list.parent, tmp_path / "images"))
    for name in ("a.filelist", "b.filelist", "a.filelist.list"):
        text = (images / name).read_text().replace(str(file_list.parent), str(images))
        (images / name).write_text(text)
    command = flags(pipeline, images / "a.filelist.list", tmp_path / "out")
    assert tool.main(command) == 0
    before = {n: (part(tmp_path / "out", n).stat().st_ino, part(tmp_path / "out", n).read_bytes()) for n in (1, 2, 3)}
    part(tmp_path / "out", 2).unlink()
    part(tmp_path / "out", 3).write_bytes(before[3][1][:1000])
    (part(tmp_path / "out", 2).parent / ".part-000002.safetensors.0123abcd.tmp").write_bytes(b"half")
    assert tool.main(command) == 0
    assert "1 parts were there already" in capsys.readouterr().out
    after = {n: (part(tmp_path / "out", n).stat().st_ino, part(tmp_path / "out", n).read_bytes()) for n in (1, 2, 3)}
    assert after[1][0] == before[1][0]
    assert [after[n][1] for n in (1, 2, 3)] == [before[n][1] for n in (1, 2, 3)]
    assert len(list(part(tmp_path / "out", 1).parent.iterdir())) == 3
    write_lines(images / "part-000001", [part_line("new", jpeg_bytes(72, 80))])
    assert tool.main(command) == 0
    assert "2 parts were there already" in capsys.readouterr().out
    assert len(list(read_latents(part(tmp_path / "out", 1)))) == 1


def test_a_changed_caption_file_makes_its_folder_again(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(jpeg_bytes(72, 80))
    (tmp_path / "images" / "1.txt").write_text("first")
    command = flags(pipeline, write_lists(tmp_path, {"a": [tmp_path / "images"]}), tmp_path / "out")
    assert tool.main(command) == tool.main(command) == 0
    assert "1 parts were there already" in capsys.readouterr().out
    (tmp_path / "images" / "1.txt").write_text("second")
    assert tool.main(command) == 0
    ((_, record),) = read_latents(part(tmp_path / "out", 1))
    assert record.caption == "second"


def test_other_models_or_flags_make_all_of_it_again(pipeline: Path, file_list: Path, tmp_path: Path) -> None:
    assert tool.main(flags(pipeline, file_list, tmp_path)) == 0
    first = read_fingerprint(part(tmp_path, 1))
    tiny_vae(seed=5).save_pretrained(str(tmp_path / "vae"))
    assert tool.main(flags(pipeline, file_list, tmp_path, vae_name_or_path=tmp_path / "vae")) == 0
    second = read_fingerprint(part(tmp_path, 1))
    assert {key for key in first if first[key] != second[key]} == {"vae"}
    assert tool.main(flags(pipeline, file_list, tmp_path, interpolation="bicubic", dtype="float16")) == 0
    third = read_fingerprint(part(tmp_path, 3))
    assert (third["interpolation"], third["vae"]) == ("bicubic", first["vae"])
    assert next(iter(read_latents(part(tmp_path, 1))))[1].moments.dtype == np.float16


def test_a_killed_run_leaves_whole_parts_and_no_list_and_goes_on(
    pipeline: Path, file_list: Path, cached: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(TOOL), *flags(pipeline, file_list, tmp_path, cache_text_encoder=True)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(6000):
        if part(tmp_path, 1).is_file() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    whole = sorted(path for path in part(tmp_path, 1).parent.glob("part-*"))
    assert whole
    for path in whole:
        assert path.read_bytes()[-100:] == part(cached, int(path.stem[-6:])).read_bytes()[-100:]
    assert tool.main(flags(pipeline, file_list, tmp_path, cache_text_encoder=True)) == 0
    for number in (1, 2, 3):
        again = list(read_latents(part(tmp_path, number)))
        for (_, found), (_, expected) in zip(again, read_latents(part(cached, number))):
            if isinstance(expected, LatentRecord):
                np.testing.assert_allclose(found.moments, expected.moments, rtol=1e-5, atol=1e-6)
            else:
                assert found == expected


@pytest.mark.slow
def test_two_processes_share_the_parts(pipeline: Path, file_list: Path, cached: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    command += [str(TOOL), *flags(pipeline, file_list, tmp_path / "out", cache_text_encoder=True)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    files = sorted(path.relative_to(cached) for path in cached.rglob("*") if path.is_file())
    made = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(made) == files
    for path in files:
        assert (tmp_path / "out" / path).read_bytes() == (cached / path).read_bytes()


def test_what_was_skipped_is_counted_and_nothing_usable_is_an_error(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_lines(tmp_path / "part-bad", [b"one column\n", part_line("small", jpeg_bytes(40, 40))])
    file_list = write_lists(tmp_path, {"bad": [bad]})
    assert tool.main(flags(pipeline, file_list, tmp_path / "out")) == 1
    shown = capsys.readouterr()
    assert "not one record could be used" in shown.err
    assert f"{bad}:1" in shown.out
    assert "1 too small" in shown.out
    assert not (tmp_path / "out" / "filelist" / "bad.filelist.list").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 68}, "--resolution 68"),
        ({"cache_text_encoder": True, "caption_rule": "random"}, "--caption_rule random cannot act"),
        ({"vae_name_or_path": "nowhere/at/all"}, "--vae_name_or_path"),
        ({"cache_text_encoder": True, "model_max_length": 78}, "--model_max_length is 78"),
        ({"device": "abacus"}, "--device abacus"),
        ({"file_list": "no.filelist.list"}, "no.filelist.list: file list not found"),
    ],
)
def test_mistakes_are_one_line(
    pipeline: Path, file_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, message: str
) -> None:
    images = changes.pop("file_list", file_list)
    assert tool.main(flags(pipeline, images, tmp_path, **changes)) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_latents_are_not_encoded_again(
    pipeline: Path, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(flags(pipeline, cached / "filelist" / "a.filelist.list", tmp_path)) == 1
    assert "there is nothing to encode" in capsys.readouterr().err


def test_buckets_keep_their_sizes_and_the_order(pipeline: Path, tmp_path: Path) -> None:
    sizes = [(128, 64), (64, 128), (80, 80), (200, 100), (90, 200)] * 3
    lines = [part_line(f"{i}", encode(noise_image(w, h, i), "PNG")) for i, (w, h) in enumerate(sizes)]
    file_list = write_lists(tmp_path, {"many": [write_lines(tmp_path / "part", lines)]})
    buckets = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
    assert tool.main(flags(pipeline, file_list, tmp_path / "out", **buckets)) == 0
    found = list(read_latents(part(tmp_path / "out", 1, "many")))
    assert [record.caption for _, record in found] == [str(i) for i in range(15)]
    shapes = [record.moments.shape[1:] for _, record in found]
    assert {shape[0] * shape[1] <= 64 for shape in shapes} == {True}
    assert len(set(shapes)) >= 3
    assert all((h > w) == (height > width) for (h, w), (width, height) in zip(shapes, sizes) if width != height)


class Counting:
    """An encoder that notes its batches: moments are the mean of the pixels."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def start(self, samples: list[Sample]) -> Any:
        self.batches.append(len(samples))
        return lambda: (np.stack([np.full((8, 1, 1), s.pixels.mean(), np.float32) for s in samples]), None)


def test_few_records_wait_for_a_rare_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppsd.trainers.latent_cache.HELD_RECORDS", 10)
    taken = []

    def records() -> Any:
        for number in range(1, 101):
            taken.append(number)
            yield number, Record(bytes([number, number == 1]), str(number))

    def decode(record: Record) -> Sample:
        width = 2 if record.image[1] else 1
        return Sample(np.full((3, 1, width), record.image[0], np.uint8), np.zeros(0, np.int64), 0)

    encoder = Counting()
    given = encode_records(records(), decode, encoder, batch_size=4)
    assert next(given)[1].caption == "1"
    assert len(taken) < 30
    rest = list(given)
    assert [number for number, _ in rest] == list(range(2, 101))
    assert [float(record.moments.mean()) for _, record in rest] == list(range(2, 101))
    assert sorted(encoder.batches) == [1, 3] + [4] * 24


def test_hidden_states_are_of_the_caption_that_the_rule_chooses() -> None:
    class Reading(Counting):
        def start(self, samples: list[Sample]) -> Any:
            return lambda: (np.zeros((1, 8, 1, 1), np.float32), np.stack([s.input_ids[None] for s in samples]))

    config = StreamConfig("", resolution=64, center_crop=True, caption_dropout_rate=0.0, caption_rule="longest")
    make = SampleMaker(config, lambda caption: np.array([len(caption)], np.float32))
    image = Record(jpeg_bytes(72, 80), "one", {}, ("seven", "two"))
    given = encode_records([(1, image)], lambda r: make(r, 0), Reading(), batch_size=1, caption_rule="longest")
    ((_, latent),) = given
    assert (latent.caption, latent.more_captions) == ("seven", ("one", "two"))
    assert latent.hidden.tolist() == [[5.0]]


def test_values_that_are_not_finite_are_counted() -> None:
    class Overflowing(Counting):
        def start(self, samples: list[Sample]) -> Any:
            return lambda: (np.full((len(samples), 8, 1, 1), np.inf, np.float32), None)

    def decode(record: Record) -> Sample:
        return Sample(np.zeros((3, 1, 1), np.uint8), np.zeros(0, np.int64), 0)

    ((number, bad),) = encode_records([(4, Record(b"x", ""))], decode, Overflowing(), batch_size=2, num_workers=2)
    assert (number, bad.reason) == (4, "latents not finite")


def test_hidden_states_of_long_captions_and_an_earlier_layer(pipeline: Path, file_list: Path, tmp_path: Path) -> None:
    """As training would have made them, the empty caption's, too."""
    options = {"cache_text_encoder": True, "max_token_length": 150, "clip_skip": 2}
    assert tool.main(flags(pipeline, file_list, tmp_path, **options)) == 0
    tokenize, condition = TokenizeCaptions(tiny_tokenizer(), 77, 2), Conditioning(tiny_text_encoder(), False, 2, 2)
    records = [record for _, record in read_latents(part(tmp_path, 1)) if isinstance(record, LatentRecord)]
    assert records
    for record in records:
        assert record.hidden.shape == (152, 16)
        for text, hidden in ((record.caption, record.hidden), ("", record.meta["empty_hidden"])):
            expected = condition(paddle.to_tensor(tokenize(text)[None])).hidden.numpy()[0]
            np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flag", ["max_token_length", "clip_skip"])
def test_flags_of_the_text_need_text(
    flag: str, pipeline: Path, file_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(flags(pipeline, file_list, tmp_path, **{flag: 150})) == 1
    assert f"--{flag} is for --cache_text_encoder" in capsys.readouterr().err
