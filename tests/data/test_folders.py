"""Image folders and Hugging Face data sets as indexed sources: all layouts, what is wrong with them, subsets."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppsd.data.config import StreamConfig
from ppsd.data.folder_records import FolderRecords
from ppsd.data.folders import dataset_source, folder_source
from ppsd.data.indexed import IndexedSource, measured
from ppsd.data.source import open_sources, records_per_epoch, sources_digest
from ppsd.formats.folder_index import index_folder
from ppsd.types import BadRecord, Record
from tests.images import encode, jpeg_bytes, noise_image

CONFIG = StreamConfig(resolution=64)


def write(root: Path, **files: Any) -> Path:
    """Files by name: texts, bytes, or the number of a seeded JPEG of 64 x 48 pixels."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg_bytes(64, 48, seed=content) if isinstance(content, int) else content
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def captions(source: IndexedSource) -> dict[str, tuple[str, int]]:
    """Caption and repeats of each record, by its name."""
    found = {}
    for index in range(len(source.records)):
        record = source.records[index]
        assert isinstance(record, Record)
        found[source.records.key(index).decode()] = record.caption, int(source.counts[index])
    return found


def reasons(source: IndexedSource) -> Counter[str]:
    return Counter(bad.reason for _, bad in source.bad)


def test_sidecars_and_kohya_folders(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "a.jpg": 1,
        "a.txt": "a red\ncircle",
        "3_sks dog/x.jpg": 2,
        "3_sks dog/y.png": 3,
        "3_sks dog/y.caption": "a sks dog runs",
        "2_cat/z.webp": 4,
        "none.jpg": 5,
    }
    source = folder_source(write(tmp_path / "set", **files), replace(CONFIG, dataset_repeats=2))
    assert captions(source) == {
        "a.jpg": ("a red circle", 2),
        "2_cat/z.webp": ("cat", 4),
        "3_sks dog/x.jpg": ("sks dog", 6),
        "3_sks dog/y.png": ("a sks dog runs", 6),
    }
    assert (source.name, source.length, records_per_epoch([source])) == ("set", 18, 18)
    assert source.bad == [
        (str(tmp_path / "set/none.jpg"), BadRecord("no caption", "no .txt or .caption file beside it"))
    ]
    tokens = [source.records[index].meta.get("class_token") for index in range(4)]  # type: ignore[union-attr]
    assert sorted(map(str, tokens)) == ["None", "cat", "sks dog", "sks dog"]


def test_a_caption_for_images_without_one(tmp_path: Path) -> None:
    """DreamBooth: --instance_prompt, except where an image has a caption of its own."""
    write(tmp_path, **{"a.jpg": 1, "b.jpg": 2, "b.txt": "a dog in a boat"})
    source = folder_source(tmp_path, CONFIG, caption="a photo of sks dog", loss_weight=2.0)
    assert captions(source) == {"a.jpg": ("a photo of sks dog", 1), "b.jpg": ("a dog in a boat", 1)}
    assert (source.loss_weight, source.bad) == (2.0, [])


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata(tmp_path: Path, kind: str) -> None:
    rows = [("sub/a.jpg", "one", "m.png"), ("b.jpg", "two", "m.png"), ("gone.jpg", "three", "m.png")]
    names = ("file_name", "text", "conditioning_image")
    if kind == "csv":
        text = "\n".join(",".join(row) for row in [names, *rows])
    else:
        text = "\n".join(json.dumps(dict(zip(names, row))) for row in rows)
    write(tmp_path, **{f"metadata.{kind}": text, "sub/a.jpg": 1, "b.jpg": 2, "m.png": 3, "unlisted.jpg": 4})
    for columns in ({}, {"image_column": "image", "caption_column": "text"}):  # those of diffusers' commands
        source = folder_source(tmp_path, replace(CONFIG, **columns))
        assert captions(source) == {"sub/a.jpg": ("one", 1), "b.jpg": ("two", 1)}
        assert reasons(source) == {"missing image": 1}
        assert source.bad[0][0].endswith(f"metadata.{kind}:{3 + (kind == 'csv')}")
        record = source.records[0]
        assert isinstance(record, Record)
        assert record.meta == {"conditioning_image": tmp_path / "m.png"}
        assert record.image == jpeg_bytes(64, 48, seed=1)


def test_the_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    source = folder_source(write(tmp_path, **{"a.jpg": 1, "a.txt": "x", "b.jpg": b"?", "b.txt": "y"}), CONFIG)
    assert len(source.records) == 2
    (tmp_path / "a.jpg").unlink()
    found = [source.records[index] for index in range(2)]
    assert isinstance(found[0], BadRecord)
    assert (found[0].reason, found[0].detail.startswith(str(tmp_path / "a.jpg"))) == ("unreadable image", True)
    assert isinstance(found[1], Record)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone", "--train_data_dir .*gone: .*not a folder"),
        ("empty", "--train_data_dir .*empty: no image in it"),
        (
            "words",
            r"--train_data_dir .*words: nothing in it can be used: .*\n  1 no caption",
        ),
        ("both", "has both metadata.jsonl and metadata.csv"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, path: str, message: str) -> None:
    write(tmp_path, **{"empty/notes.txt": "x", "words/a.jpg": 1, "both/metadata.jsonl": "", "both/metadata.csv": ""})
    with pytest.raises(ValueError, match=message):
        open_sources(replace(CONFIG, train_data_dir=str(tmp_path / path)))


def test_the_digest_tells_which_images_there_are(tmp_path: Path) -> None:
    def digest(folder: Path, **flags: Any) -> str:
        return sources_digest([folder_source(folder, replace(CONFIG, **flags))])

    files: dict[str, Any] = {f"{n}.jpg": n for n in range(4)} | {f"{n}.txt": "x" for n in range(4)}
    usual = digest(write(tmp_path / "a", **files))
    assert digest(write(tmp_path / "elsewhere" / "b", **files)) == usual
    changed = [
        digest(write(tmp_path / "c", **files, **{"5.jpg": 5, "5.txt": "x"})),
        digest(write(tmp_path / "d", **{**files, "3.jpg": jpeg_bytes(99, 99)})),
        digest(write(tmp_path / "e", **{name.replace("3", "7"): data for name, data in files.items()})),
        digest(tmp_path / "a", dataset_repeats=2),
        digest(tmp_path / "a", max_train_samples=3),
        digest(tmp_path / "a", filter="num_bytes % 2 == 0"),
    ]
    assert len({usual, *changed}) == 7


def test_the_digest_tells_the_sizes_that_buckets_are_made_of(tmp_path: Path) -> None:
    files: dict[str, Any] = {f"{n:02}.jpg": n for n in range(18)} | {f"{n:02}.txt": "x" for n in range(18)}
    write(tmp_path, **files)
    square, buckets = CONFIG, replace(CONFIG, enable_bucket=True, min_bucket_reso=64)
    before = [sources_digest([folder_source(tmp_path, config)]) for config in (square, buckets)]
    write(tmp_path, **{"17.jpg": jpeg_bytes(48, 64)})
    after = [sources_digest([folder_source(tmp_path, config)]) for config in (square, buckets)]
    assert [old == new for old, new in zip(before, after)] == [True, False]


def test_some_of_the_images_chosen_by_the_seed(tmp_path: Path) -> None:
    files: dict[str, Any] = {f"2_x/{n:02}.jpg": n for n in range(20)}
    write(tmp_path, **files)
    whole = folder_source(tmp_path, CONFIG)
    chosen = [set(captions(folder_source(tmp_path, replace(CONFIG, max_train_samples=8), seed=s))) for s in (0, 0, 1)]
    assert [len(names) for names in chosen] == [8, 8, 8]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] < set(captions(whole))
    assert folder_source(tmp_path, replace(CONFIG, max_train_samples=8)).length == 16
    assert folder_source(tmp_path, replace(CONFIG, max_train_samples=99)).length == 40


def test_a_filter_chooses_before_the_run_begins(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.jpg", "text": "x", "score": n} for n in range(6)]
    write(tmp_path, **{f"{n}.jpg": n for n in range(6)}, **{"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    source = folder_source(tmp_path, replace(CONFIG, filter="score >= 2 and width == 64"))
    assert set(captions(source)) == {"2.jpg", "3.jpg", "4.jpg", "5.jpg"}
    assert reasons(source) == {"filter: score >= 2": 2}


def test_sizes_come_from_headers_upright(tmp_path: Path) -> None:
    exif = noise_image().getexif()
    exif[0x0112] = 6
    shapes = {
        "plain.jpg": jpeg_bytes(70, 30),
        "turned.jpg": encode(noise_image(70, 30), exif=exif),
        "turned.png": encode(noise_image(70, 30), "PNG", exif=exif),
        "long_header.jpg": encode(noise_image(70, 30), icc_profile=b"x" * 60_000),
        "cut.jpg": jpeg_bytes(70, 30)[:-200],
        "broken.jpg": b"nothing",
        "empty.jpg": b"",
    }
    write(tmp_path, **shapes, **{f"{name.split('.')[0]}.txt": "x" for name in shapes})
    source = folder_source(tmp_path, CONFIG)
    found = measured(source)
    sizes = {found.records.key(i).decode(): tuple(found.sizes[i].tolist()) for i in range(len(found.records))}  # type: ignore[index]
    assert sizes == {
        "plain.jpg": (70, 30),
        "turned.jpg": (30, 70),
        "turned.png": (30, 70),
        "long_header.jpg": (70, 30),
        "cut.jpg": (70, 30),
    }
    assert reasons(found) == {"not an image": 1, "empty image": 1}
    assert measured(found) is found


def test_an_index_is_small(tmp_path: Path) -> None:
    count = 3000
    (tmp_path / "0.jpg").write_bytes(jpeg_bytes())
    rows = (json.dumps({"file_name": "0.jpg", "text": f"a photo of number {n} in a row"}) for n in range(count))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    index = index_folder(tmp_path)
    assert len(index) == count
    assert index.nbytes < 100 * count
    assert index[7].caption == "a photo of number 7 in a row"


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write(tmp_path, **{name: 1, name.replace("jpg", "txt"): "x", "红色.jpg": 2, "红色.txt": "红色的圆"})
    source = folder_source(tmp_path, CONFIG)
    assert [record.caption for record in (source.records[0], source.records[1])] == ["x", "红色的圆"]  # type: ignore[union-attr]
    assert len(sources_digest([source])) == 16


def test_a_folder_named_in_gb18030(tmp_path: Path) -> None:
    write(tmp_path, **{"3_红色".encode("gb18030").decode("utf-8", "surrogateescape") + "/x.jpg": 1})
    source = folder_source(tmp_path, CONFIG)
    assert (source.records[0].caption, source.length) == ("红色", 3)  # type: ignore[union-attr]


def test_a_folder_named_by_a_date_is_no_number_of_repeats(tmp_path: Path) -> None:
    write(tmp_path, **{"20240101_paris/x.jpg": 1})
    with pytest.raises(
        ValueError, match=r"20240101_paris: its name says 20240101 repeats .* limit is 10000; rename it"
    ):
        folder_source(tmp_path, CONFIG)


def test_an_item_of_the_index_is_what_was_read(tmp_path: Path) -> None:
    from ppsd.formats.image_folder import read_image_folder

    rows = [
        {"file_name": "a.jpg", "text": ["one", "two"], "mask": "a.jpg", "score": 0.5},
        {"file_name": str(tmp_path / "a.jpg"), "text": ""},
    ]
    write(tmp_path, **{"a.jpg": 1, "metadata.jsonl": "\n".join(map(json.dumps, rows))})
    index = index_folder(tmp_path)
    assert [index[n] for n in range(len(index))] == [item for _, item in read_image_folder(tmp_path)]


def _dataset(count: int = 6) -> Any:
    import datasets

    rows = {
        "image": [{"bytes": jpeg_bytes(40 + n, 50, seed=n), "path": None} for n in range(count)],
        "text": [f"caption {n}" for n in range(count)],
        "other": [f"another {n}" for n in range(count)],
        "conditioning_image": [{"bytes": jpeg_bytes(8, 8, seed=n), "path": None} for n in range(count)],
        "score": list(range(count)),
    }
    dataset = datasets.Dataset.from_dict(rows)
    for column in ("image", "conditioning_image"):
        dataset = dataset.cast_column(column, datasets.Image())
    return dataset


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


def _save(layout: str, folder: Path) -> Path:
    import datasets

    dataset = _dataset()
    if layout == "save_to_disk":
        dataset.save_to_disk(str(folder))
    elif layout == "shards":
        dataset.save_to_disk(str(folder), num_shards=3)
    elif layout == "dict":
        datasets.DatasetDict({"test": dataset.select([0]), "train": dataset}).save_to_disk(str(folder))
    elif layout == "only split":
        datasets.DatasetDict({"whole": dataset}).save_to_disk(str(folder))
    elif layout == "parquet":
        folder.mkdir()
        dataset.to_parquet(str(folder / "some.parquet"))
        return folder / "some.parquet"
    elif layout == "repository":
        (folder / "data").mkdir(parents=True)
        dataset.select([0]).to_parquet(str(folder / "data" / "test-00000-of-00001.parquet"))
        dataset.select(range(4)).to_parquet(str(folder / "data" / "train-00000-of-00002.parquet"))
        dataset.select(range(4, 6)).to_parquet(str(folder / "data" / "train-00001-of-00002.parquet"))
    elif layout == "arrow":
        dataset.save_to_disk(str(folder))
        (file,) = folder.glob("*.arrow")
        return file
    elif layout == "arrow folder":
        dataset.save_to_disk(str(folder))
        for name in ("state.json", "dataset_info.json"):
            (folder / name).unlink()
    return folder


LAYOUTS = ("save_to_disk", "shards", "dict", "only split", "parquet", "repository", "arrow", "arrow folder")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_sets(tmp_path: Path, layout: str) -> None:
    path = _save(layout, tmp_path / "set")
    (source,) = open_sources(replace(CONFIG, dataset_name=str(path)))
    assert isinstance(source, IndexedSource)
    assert records_per_epoch([source]) == 6
    for index in range(6):
        record = source.records[index]
        assert isinstance(record, Record)
        assert (record.caption, record.image) == (f"caption {index}", jpeg_bytes(40 + index, 50, seed=index))
        conditioning = jpeg_bytes(8, 8, seed=index)
        assert record.meta == {"other": f"another {index}", "score": index, "conditioning_image": conditioning}
        assert source.records.size(index) == (40 + index, 50)
    assert source.records.where(4) == f"{path}, row 4"


def test_data_sets_by_column_and_their_digest(tmp_path: Path) -> None:
    _dataset().save_to_disk(str(tmp_path / "set"))
    config = replace(CONFIG, image_column="conditioning_image", caption_column="other")
    record = dataset_source(str(tmp_path / "set"), config).records[3]
    assert isinstance(record, Record)
    assert (record.caption, record.image) == ("another 3", jpeg_bytes(8, 8, seed=3))
    usual = sources_digest([dataset_source(str(tmp_path / "set"), CONFIG)])
    (tmp_path / "set").rename(tmp_path / "moved")
    assert sources_digest([dataset_source(str(tmp_path / "moved"), CONFIG)]) == usual
    _dataset().shuffle(seed=1).save_to_disk(str(tmp_path / "other"))
    assert sources_digest([dataset_source(str(tmp_path / "other"), CONFIG)]) != usual


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset_name": "lambdalabs/pokemon"}, "no such folder or file.* huggingface-cli download"),
        (
            {"caption_column": "prompt"},
            "--caption_column prompt is none of the caption columns of .*: text, other, ",
        ),
        ({"image_column": "score"}, "--image_column score is none of the image columns of .*: image, condition"),
        ({"dataset_name": "FOLDER/images"}, "no .parquet or .arrow file in it; .*--train_data_dir"),
        ({"dataset_name": "FOLDER/splits"}, "no split train among test, validation"),
        ({"dataset_name": "FOLDER/broken.parquet"}, "the datasets library cannot read it: "),
        ({"dataset_name": "FOLDER/images/a.jpg"}, "a file must end in .parquet or .arrow"),
    ],
)
def test_data_sets_that_cannot_be_used(tmp_path: Path, flags: dict[str, str], message: str) -> None:
    import datasets

    dataset = _dataset()
    dataset.save_to_disk(str(tmp_path / "set"))
    datasets.DatasetDict({"test": dataset, "validation": dataset}).save_to_disk(str(tmp_path / "splits"))
    write(tmp_path, **{"images/a.jpg": 1, "broken.parquet": b"PAR1 no"})
    named = {name: value.replace("FOLDER", str(tmp_path)) for name, value in flags.items()}
    with pytest.raises(ValueError, match=message):
        open_sources(replace(CONFIG, **{"dataset_name": str(tmp_path / "set"), **named}))


def test_data_sets_whose_images_are_files_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.chdir(write(tmp_path / "set", **{"pictures/a.jpg": 1}))
    images = [{"bytes": None, "path": "pictures/a.jpg"}, None]
    dataset = datasets.Dataset.from_dict({"image": images, "text": ["x", "y"]})
    dataset = dataset.cast_column("image", datasets.Image(decode=False))
    dataset.save_to_disk(str(tmp_path / "set"))
    monkeypatch.chdir(tmp_path)
    records = dataset_source(str(tmp_path / "set"), CONFIG).records
    assert records[0] == Record(jpeg_bytes(64, 48, seed=1), "x", {})
    assert isinstance(records[1], BadRecord)
    assert records[1].reason == "no image bytes"


def test_a_file_whose_images_are_paths(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    structs = pyarrow.array([{"bytes": None, "path": "pictures/a.jpg"}], image)
    table = pyarrow.table({"image": structs, "place": ["pictures/b.jpg"], "text": ["x"]})
    write(tmp_path / "set", **{"pictures/a.jpg": 1, "pictures/b.jpg": 2})
    parquet.write_table(table, tmp_path / "set" / "rows.parquet")
    name = str(tmp_path / "set" / "rows.parquet")
    assert dataset_source(name, CONFIG).records[0] == Record(
        jpeg_bytes(64, 48, seed=1), "x", {"place": "pictures/b.jpg"}
    )
    by_path = dataset_source(name, replace(CONFIG, image_column="place")).records
    assert by_path[0] == Record(jpeg_bytes(64, 48, seed=2), "x", {"image": by_path[0].meta["image"]})  # type: ignore[union-attr]
    assert by_path.size(0) == (64, 48)


@pytest.mark.parametrize("flag", ["dataset_repeats", "max_train_samples", "dataset_config_name"])
def test_flags_of_folders_do_not_go_with_file_lists(flag: str) -> None:
    with pytest.raises(ValueError, match=f"--{flag} is for --train_data_dir and --dataset_name"):
        open_sources(StreamConfig("x.filelist", **{flag: 3}))  # type: ignore[arg-type]


def test_repeats_of_folders_that_are_empty_of_captions(tmp_path: Path) -> None:
    index = index_folder(write(tmp_path, **{"2_a/x.jpg": 1, "y.jpg": 2, "0_never/z.jpg": 3}))
    records = FolderRecords(index, 2**20)
    assert records.repeats.tolist() == [0, 2]
    assert records.indices.tolist() == [1, 2]
    assert folder_source(tmp_path, CONFIG).length == 2
