from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ppsd.formats import image_bytes, laion, tar, webdataset
from ppsd.formats.extras import extras_json
from ppsd.formats.lines import BAD_JSON, NO_CAPTION, NOT_TEXT
from ppsd.formats.webdataset import read_tar, split_name, write_tar
from ppsd.types import BadRecord, Record
from tests.images import encode, jpeg_bytes, noise_image

JPEG = jpeg_bytes(16, 16)


def make_tar(path: Path, files: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT, mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=tar_format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def img2dataset_files(count: int) -> list[tuple[str, bytes]]:
    """What img2dataset writes: jpg, json and txt of each example."""
    files = []
    for i in range(count):
        row = {"caption": f"picture {i}", "key": f"{i:09d}", "status": "success", "similarity": 0.25, "width": 16}
        row.update({"error_message": None, "exif": "{}", "url": f"http://x/{i}"})
        files += [
            (f"{i:09d}.jpg", jpeg_bytes(16, 16, seed=i)),
            (f"{i:09d}.json", json.dumps(row).encode()),
            (f"{i:09d}.txt", f"picture {i}".encode()),
        ]
    return files


def outcomes(path: Path, *args: int, **options: Any) -> list[tuple[int, str]]:
    """(number, caption or reason)"""
    found = read_tar(path, *args, **options)
    return [(n, record.reason if isinstance(record, BadRecord) else record.caption) for n, record in found]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_img2dataset(tmp_path: Path, tar_format: int, mode: str) -> None:
    path = make_tar(tmp_path / "00000.tar", img2dataset_files(3), tar_format, mode)
    meta = {"key": "000000002", "status": "success", "similarity": 0.25, "width": 16, "exif": "{}", "url": "http://x/2"}
    records = list(read_tar(path))
    assert records[2] == (3, Record(jpeg_bytes(16, 16, seed=2), "picture 2", meta))
    assert [n for n, _ in records] == [1, 2, 3]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, tar_format: int) -> None:
    names = ["a" * 300, "folder/" * 30 + "b", "图片", "c"]
    files = [(f"{name}.{end}", data) for name in names for end, data in (("jpg", JPEG), ("txt", name.encode()))]
    assert outcomes(make_tar(tmp_path / "a.tar", files, tar_format)) == list(enumerate(names, start=1))


def test_ustar_prefix(tmp_path: Path) -> None:
    files = [("d" * 100 + "/" + "e" * 90 + "." + end, data) for end, data in (("jpg", JPEG), ("txt", b"x"))]
    assert outcomes(make_tar(tmp_path / "a.tar", files, tarfile.USTAR_FORMAT)) == [(1, "x")]


def test_keys_end_at_the_first_dot_of_the_file_name() -> None:
    assert split_name("a.b/c.d/e.seg.PNG") == ("a.b/c.d/e", "seg.png")
    assert split_name("e.jpg") == ("e", "jpg")
    assert [split_name(name)[1] for name in ("README", "a/.hidden.jpg", "__MACOSX/a.jpg", ".jpg")] == [""] * 4


def test_captions_of_every_place(tmp_path: Path) -> None:
    def row(**values: object) -> bytes:
        return json.dumps(values).encode()

    path = make_tar(
        tmp_path / "a.tar",
        [
            *(("a.jpg", JPEG), ("a.json", row(text="from json", punsafe=0.5))),
            *(("b.png", JPEG), ("b.txt", b"txt\r\n"), ("b.json", row(caption="json", TEXT="txt", captions=["x", "y"]))),
            *(("c.webp", JPEG), ("c.txt", "\ufeff 猫 ".encode("utf-8")), ("c.cls", b"7\n")),
            *(("d.JPEG", JPEG), ("d.json", row(captions=["one", "two"], cls=3)), ("d.cls", b"x"), ("d.npy", b"?")),
            *(("README", b"no example"), ("e.jpg", JPEG), ("e.txt", b"")),
        ],
    )
    assert [record for _, record in read_tar(path)] == [
        Record(JPEG, "from json", {"punsafe": 0.5}),
        Record(JPEG, "txt", {}, ("json", "x", "y")),
        Record(JPEG, " 猫 ", {"cls": 7}),
        Record(JPEG, "one", {"cls": 3}, ("two",)),
        Record(JPEG, ""),
    ]


def test_columns_are_the_users(tmp_path: Path) -> None:
    row = json.dumps({"blip": "by blip", "caption": "c"}).encode()
    files = [("a.jpg", b"1"), ("a.seg.png", b"2"), ("a.txt", b"t"), ("a.alt.txt", b"alt"), ("a.json", row)]
    path = make_tar(tmp_path / "a.tar", files)
    seen = [
        next(read_tar(path, image_column=image, caption_column=caption))[1]
        for image, caption in ((None, "blip"), ("seg.png", "alt.txt"), ("gif;seg.png;jpg", None), ("gif", None))
    ]
    assert seen[:3] == [
        Record(b"1", "by blip", {}, ("c", "t")),
        Record(b"2", "alt", {"blip": "by blip"}, ("c", "t")),
        Record(b"2", "t", {"blip": "by blip"}, ("c",)),
    ]
    assert seen[3] == BadRecord(webdataset.NO_IMAGE, "'a' has json, txt")


def test_examples_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bytes, "MAX_IMAGE_BYTES", 2**16)
    files = [
        *(("a.txt", b"no image"), ("a.json", b"{}")),
        ("b.jpg", JPEG),
        *(("c.jpg", b""), ("c.txt", b"x")),
        *(("d.jpg", bytes(2**16 + 1)), ("d.txt", b"x")),
        *(("e.jpg", JPEG), ("e.txt", b"x" * (2**20 + 1))),
        *(("f.jpg", JPEG), ("f.jpg", JPEG), ("f.txt", b"x")),
        *(("g.jpg", JPEG), ("g.txt", b"\xff\xff\xff")),
        *(("h.jpg", JPEG), ("h.json", b'{"text": ')),
        *(("i.jpg", JPEG), ("i.json", b'{"title": "x"}')),
        *(("j.jpg", JPEG), ("j.txt", b"good")),
    ]
    path = make_tar(tmp_path / "a.tar", files)
    reasons = [
        *(webdataset.NO_IMAGE, NO_CAPTION, "empty image", "image file too large", webdataset.TEXT_TOO_LARGE),
        *(webdataset.DUPLICATE_MEMBER, NOT_TEXT, BAD_JSON, NO_CAPTION, "good"),
    ]
    assert outcomes(path) == list(enumerate(reasons, start=1))
    assert [record.detail for _, record in read_tar(path) if isinstance(record, BadRecord)][:2] == [
        "'a' has json, txt",
        "'b' has jpg",
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_start_every_and_offset(tmp_path: Path, mode: str) -> None:
    path = make_tar(tmp_path / "a.tar", img2dataset_files(11), mode=mode)
    everything = dict(read_tar(path))
    assert list(read_tar(path, 7)) == [(n, everything[n]) for n in (8, 9, 10, 11)]
    assert list(read_tar(path, 4, every=3, offset=1)) == [(n, everything[n]) for n in (5, 8, 11)]
    assert list(read_tar(path, 11)) == []


def test_data_that_are_passed_over_are_not_read(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar", [(f"{i}.{end}", bytes(2**20)) for i in range(20) for end in ("jpg", "npy", "txt")]
    )

    class Counting(io.FileIO):
        num_bytes = 0

        def readinto(self, buffer: Any) -> int:
            count = super().readinto(buffer)
            Counting.num_bytes += count
            return count

    with io.BufferedReader(Counting(path), 2**12) as file:
        assert [n for n, _ in webdataset.read_members(file, b"", 19, 1, 0)] == [20]
    assert 2 * 2**20 < Counting.num_bytes < 2.5 * 2**20


def test_truncated_tar(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", img2dataset_files(20))
    data = path.read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        path.write_bytes(data[: draw.randrange(512, 20 * 3 * 512)])
        found = outcomes(path)
        assert [reason for _, reason in found].count(tar.TRUNCATED_TAR) == 1
        assert [n for n, _ in found] == list(range(1, len(found) + 1))
        assert found[-1][1] == tar.TRUNCATED_TAR
        # The last example may lack files that were cut off.
        assert [caption for _, caption in found[:-2]] == [f"picture {i}" for i in range(len(found) - 2)]
        assert outcomes(path, 19, every=5, offset=3)[-1][1] == tar.TRUNCATED_TAR


def test_a_block_of_zeros_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", img2dataset_files(4))
    data = path.read_bytes()
    place = next(i for i in range(2048, len(data), 512) if data[i + 257 : i + 262] == b"ustar")
    path.write_bytes(data[:place] + bytes(512) + data[place:])
    assert outcomes(path)[-1][1] == "corrupt tar"


def test_damaged_headers(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", img2dataset_files(20))
    data = path.read_bytes()
    draw = random.Random(0)
    with tarfile.open(path) as archive:
        headers = [member.offset for member in archive.getmembers()]
    for _ in range(60):
        damaged = bytearray(data)
        at = draw.choice(headers) + draw.randrange(512)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        # Not every bit matters: octal numbers of the checksum may have other blanks around them.
        assert outcomes(path)[-1] in [(n, tar.CORRUPT_TAR) for n in range(1, 22)] + [(20, "picture 19")]
        assert at % 512 >= 148 or outcomes(path)[-1][1] == tar.CORRUPT_TAR


def test_first_header_that_is_damaged_is_one_of_a_tar_all_the_same(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", img2dataset_files(1))
    path.write_bytes(b"X" + path.read_bytes()[1:])
    ((_, bad),) = read_tar(path)
    assert isinstance(bad, BadRecord)
    assert bad.detail.startswith("the checksum of a header is wrong")


def test_damaged_pax_headers_are_no_crash(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", [("图" * 60 + ".jpg", JPEG), ("图" * 60 + ".txt", b"x")], tarfile.PAX_FORMAT)
    data = path.read_bytes()
    for at in range(512, 720):
        path.write_bytes(data[:at] + b"9" + data[at + 1 :])
        assert {reason for _, reason in outcomes(path)} <= {
            *("x", tar.CORRUPT_TAR, tar.TRUNCATED_TAR, webdataset.NO_IMAGE, NO_CAPTION, laion.EMPTY_PART)
        }


def with_size(data: bytes, size: bytes) -> bytes:
    """An archive whose first header says another size, with the checksum that makes it right."""
    header = data[:124] + size.ljust(12, b"\0") + data[136:148] + b" " * 8 + data[156:512]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:] + data[512:]


@pytest.mark.parametrize("name", ["1.jpg", "1.xyz"])
def test_size_below_zero_is_neither_a_crash_nor_a_hang(tmp_path: Path, name: str) -> None:
    path = make_tar(tmp_path / "a.tar", [(name, JPEG)])
    path.write_bytes(with_size(path.read_bytes(), b"-1001"))  # to go back by 512 bytes: to this header
    assert outcomes(path) == [(1, tar.CORRUPT_TAR)]


def test_numbers_of_thousands_of_digits_are_no_crash(tmp_path: Path) -> None:
    digits = "9" * 5000
    path = make_tar(tmp_path / "a.tar", [("1.jpg", JPEG), ("1.txt", b"x"), ("1.cls", digits.encode())])
    assert next(read_tar(path))[1] == Record(JPEG, "x", {"cls": digits})
    field = b"5011 size=" + digits.encode() + b"\n"
    path = make_tar(tmp_path / "b.tar", [("1.jpg", JPEG)], tarfile.USTAR_FORMAT)
    header = make_tar(tmp_path / "c.tar", [("x", field)], tarfile.USTAR_FORMAT).read_bytes()
    header = header[:156] + b"x" + header[157:512] + field.ljust(5120, b"\0")
    path.write_bytes(with_size(header, b"%o" % len(field)) + path.read_bytes())
    assert outcomes(path) == [(1, tar.CORRUPT_TAR)]


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.9999])
def test_truncated_and_corrupt_gzip(tmp_path: Path, cut: float) -> None:
    path = make_tar(tmp_path / "a.tar.gz", img2dataset_files(50), mode="w:gz")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    assert outcomes(path)[-1][1] == laion.TRUNCATED_GZIP
    path.write_bytes(data[: int(len(data) * cut)] + bytes([255]) * 1000)
    assert outcomes(path)[-1][1] in (laion.CORRUPT_GZIP, tar.CORRUPT_TAR)
    path.write_bytes(data[:-5] + b"?" + data[-4:])
    assert outcomes(path)[-1][1] == laion.CORRUPT_GZIP


@pytest.mark.parametrize("data", [bytes(10240), gzip.compress(bytes(10240), mtime=0)])
def test_empty_tar(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    assert outcomes(tmp_path / "a.tar", 3) == [(1, laion.EMPTY_PART)]


def test_file_that_is_not_there(tmp_path: Path) -> None:
    assert outcomes(tmp_path / "a.tar") == [(1, laion.UNREADABLE_PART)]


def test_size_beyond_octal(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.bin")
    header.size = 2**40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(512))
    found = list(read_tar(tmp_path / "a.tar"))
    assert found[1:] == [
        (2, BadRecord(tar.TRUNCATED_TAR, f"the file ends {2**40 - 512} bytes before the end of a member"))
    ]


def test_a_gigabyte_of_zeros_in_gzip_is_not_held(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("a.bin")
        info.size = 2**27

        class Zeros(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                return bytes(size)

        archive.addfile(info, Zeros())
    tracemalloc.start()
    assert outcomes(tmp_path / "a.tar.gz") == [(1, webdataset.NO_IMAGE)]
    assert tracemalloc.get_traced_memory()[1] < 80 * 2**20
    tracemalloc.stop()


RECORDS = [
    Record(JPEG, "一只猫", {"similarity": 0.25, "tags": ["a", {"b": 1}], "none": None}, ("cat", "tom")),
    Record(encode(noise_image(8, 8), "PNG"), " blanks "),
    Record(encode(noise_image(8, 8), "WEBP"), "", {}, ("x",)),
    Record(encode(noise_image(8, 8), "GIF"), "a\nb"),
    Record(encode(noise_image(8, 8), "BMP"), "a"),
    Record(encode(noise_image(8, 8), "TIFF"), "a"),
    Record(b"an image of some other kind", "a"),
]


def written(record: Record) -> Record:
    return Record(
        record.image, record.caption, {k: v for k, v in record.meta.items() if v is not None}, record.more_captions
    )


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, compress: bool) -> None:
    assert write_tar(tmp_path / "a", RECORDS, gzip=compress, prefix="x_") == 7
    assert list(read_tar(tmp_path / "a")) == list(enumerate(map(written, RECORDS), start=1))
    write_tar(tmp_path / "b", iter(RECORDS), gzip=compress, prefix="x_")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as archive:
        names = archive.getnames()
    assert names[:5] == ["x_000001.jpg", "x_000001.txt", "x_000001.json", "x_000002.png", "x_000002.txt"]
    assert [name for name in names if name.endswith((".webp", ".gif", ".bmp", ".tif", ".img"))] == [
        *("x_000003.webp", "x_000004.gif", "x_000005.bmp", "x_000006.tif", "x_000007.img")
    ]


def test_webdataset_reads_what_is_written(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    write_tar(tmp_path / "a.tar", RECORDS[:2])
    first, second = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("pil")
    assert first["__key__"] == "000001"
    assert first["txt"] == "一只猫"
    assert (
        first["json"] == json.loads(extras_json(RECORDS[0])) == {**written(RECORDS[0]).meta, "captions": ["cat", "tom"]}
    )
    assert first["jpg"].size == (16, 16)
    assert sorted(key for key in second if key[0] != "_") == ["png", "txt"]


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    for name in ("a.tar", "a.tar.gz"):
        with wds.TarWriter(str(tmp_path / name)) as sink:
            for i in range(3):
                sink.write({"__key__": f"dir/sample{i}", "jpg": JPEG, "txt": f"c{i}", "json": {"i": i}, "cls": i})
        expected = [(i + 1, Record(JPEG, f"c{i}", {"i": i, "cls": i})) for i in range(3)]
        assert list(read_tar(tmp_path / name)) == expected


def test_record_without_image_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record without an image: caption 'cat'"):
        write_tar(tmp_path / "a.tar", [RECORDS[0], Record(b"", "cat")])
    assert list(tmp_path.iterdir()) == []
