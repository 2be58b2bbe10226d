from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from safetensors import safe_open

from ppsd.formats import latent_rows
from ppsd.formats.filelist import Source, read_file_list
from ppsd.formats.laion import EMPTY_PART, UNREADABLE_PART
from ppsd.formats.latent_layout import LatentLayout, distinct_parts
from ppsd.formats.latents import (
    CORRUPT_LATENTS,
    NOT_LATENTS,
    TRUNCATED_LATENTS,
    read_bad,
    read_fingerprint,
    read_latents,
    read_origin,
    write_latents,
)
from ppsd.formats.safetensors_part import HEAD_BYTES, is_safetensors
from ppsd.types import BadRecord, LatentRecord
from tests.formats.bad_server import BadServer
from tests.limits import files_of_at_most

PRINT = {"vae": "0123", "resolution": 64}
RNG = np.random.default_rng(0)
EMPTY = RNG.standard_normal((5, 3), dtype=np.float32)


def latent(number: int, size: tuple[int, int] = (4, 4), hidden: bool = False) -> LatentRecord:
    rng = np.random.default_rng(number)
    states = rng.standard_normal((5, 3), dtype=np.float32) if hidden else None
    moments = rng.standard_normal((8, *size), dtype=np.float32)
    return LatentRecord(moments, f"caption {number} 猫\t\n", {"score": number / 2, "url": "a"}, ("a", "b"), states)


def records(hidden: bool = False) -> list[tuple[int, LatentRecord | BadRecord]]:
    """Two sizes, two bad records, one number left out."""
    sizes = [(4, 4), (4, 6), (4, 4), (2, 8)]
    listed: list[tuple[int, LatentRecord | BadRecord]] = [
        (n, latent(n, sizes[n % 4], hidden)) for n in range(1, 12) if n != 7
    ]
    listed[2] = (3, BadRecord("not an image", "12 bytes"))
    listed[9] = (11, BadRecord("corrupt gzip", ""))
    return listed


def write(folder: Path, hidden: bool = False, **options: object) -> Path:
    path = folder / "part-000001.safetensors"
    write_latents(path, records(hidden), PRINT, empty_hidden=EMPTY if hidden else None, **options)
    return path


def assert_same(found: LatentRecord | BadRecord, expected: LatentRecord | BadRecord) -> None:
    if isinstance(expected, BadRecord):
        assert found == expected
        return
    assert isinstance(found, LatentRecord)
    np.testing.assert_array_equal(found.moments, expected.moments)
    assert (found.caption, found.more_captions) == (expected.caption, expected.more_captions)
    assert {key: found.meta[key] for key in expected.meta} == expected.meta
    assert (found.hidden is None) == (expected.hidden is None)
    if expected.hidden is not None:
        np.testing.assert_array_equal(found.hidden, expected.hidden)
        np.testing.assert_array_equal(found.meta["empty_hidden"], EMPTY)


@pytest.mark.parametrize("hidden", [False, True])
def test_all_records_come_back_in_order(tmp_path: Path, hidden: bool) -> None:
    path = write(tmp_path, hidden)
    found = list(read_latents(path))
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    for (_, record), (_, expected) in zip(found, records(hidden)):
        assert_same(record, expected)


@pytest.mark.parametrize(("start", "every", "offset"), [(0, 3, 0), (4, 2, 1), (6, 1, 0), (9, 4, 2), (50, 1, 0)])
def test_only_the_records_asked_for_are_given(tmp_path: Path, start: int, every: int, offset: int) -> None:
    path = write(tmp_path, hidden=True)
    found = dict(read_latents(path, start, every=every, offset=offset))
    wanted = {n: record for n, record in records(hidden=True) if n > start and (n - 1) % every == offset}
    assert list(found) == list(wanted)
    for number, record in wanted.items():
        assert_same(found[number], record)


def test_only_the_bytes_of_these_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part"
    write_latents(path, ((n, latent(n, (32, 32))) for n in range(1, 201)), PRINT)
    read = []

    class Counting:
        def __init__(self, file: object) -> None:
            self.file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def read(self, count: int = -1) -> bytes:
            data = self.file.read(count)
            read.append(len(data))
            return data

    monkeypatch.setattr("ppsd.formats.latents.open_input", lambda path, seekable: Counting(open(path, "rb")))  # noqa: SIM115
    assert len(list(read_latents(path, start=190, every=5, offset=0))) == 2
    assert 2 * 8 * 32 * 32 * 4 < sum(read) < path.stat().st_size / 50


def test_of_a_remote_part_many_records_come_with_one_request(tmp_path: Path) -> None:
    path = tmp_path / "part"
    write_latents(path, ((n, latent(n, (32, 32), hidden=True)) for n in range(1, 101)), PRINT, empty_hidden=EMPTY)
    server = BadServer()
    try:
        url = server.add("part", path.read_bytes())
        for every, most in ((1, 12), (40, 12)):
            server.requests.clear()
            found = list(read_latents(url, every=every, fingerprint=PRINT))
            assert len(found) == -(-100 // every)
            for number, record in found:
                assert_same(record, latent(number, (32, 32), hidden=True))
            assert len(server.requests) <= most
    finally:
        server.close()


def test_any_safetensors_library_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path, hidden=True)
    with safe_open(str(path), framework="np") as file:
        assert file.metadata()["ppsd_format"] == "latents"
        assert json.loads(file.metadata()["fingerprint"]) == PRINT
        good = [record for _, record in records(True) if isinstance(record, LatentRecord)]
        np.testing.assert_array_equal(file.get_tensor("hidden"), np.stack([record.hidden for record in good]))
        square = [record.moments for record in good if record.moments.shape == (8, 4, 4)]
        np.testing.assert_array_equal(file.get_tensor("moments.4x4"), np.stack(square))
        ends = file.get_tensor("text_ends")
        first = json.loads(file.get_tensor("text").tobytes()[: ends[0]])
    assert first == {"caption": "caption 1 猫\t\n", "more_captions": ["a", "b"], "meta": {"score": 0.5, "url": "a"}}


def test_the_same_records_are_the_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    first = write(tmp_path, hidden=True).read_bytes()
    assert write(tmp_path, hidden=True).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["part-000001.safetensors"]

    def broken() -> object:
        yield 1, latent(1)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_latents(tmp_path / "part-000002.safetensors", broken(), PRINT)
    assert len(list(tmp_path.iterdir())) == 1


def test_float16_halves_the_file_and_says_what_it_costs(tmp_path: Path) -> None:
    whole = (tmp_path / "a", tmp_path / "b")
    many = [(n, latent(n, (16, 16), hidden=True)) for n in range(1, 20)]
    exact = write_latents(whole[0], many, PRINT, empty_hidden=EMPTY)
    rounding = write_latents(whole[1], many, PRINT, empty_hidden=EMPTY, dtype="float16")
    assert exact == (0.0, 0.0)
    assert whole[1].stat().st_size < 0.55 * whole[0].stat().st_size
    found = [record.moments.astype(np.float64) for _, record in read_latents(whole[1])]
    errors = [np.abs(moments - record.moments).max() for moments, (_, record) in zip(found, many)]
    assert rounding.moments == pytest.approx(max(errors))
    assert 0 < rounding.moments < 2**-11 * 8
    assert 0 < rounding.hidden < 2**-11 * 8


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    large = LatentRecord(np.full((8, 1, 1), 1e5, np.float32), "")
    with pytest.raises(ValueError, match="does not fit into float16: use float32"):
        write_latents(tmp_path / "a", [(1, large)], PRINT, dtype="float16")
    infinite = LatentRecord(np.full((8, 1, 1), np.inf, np.float32), "")
    with pytest.raises(ValueError, match="is not finite"):
        write_latents(tmp_path / "a", [(1, infinite)], PRINT)


def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path: Path) -> None:
    many = [(n, LatentRecord(np.zeros((8, 8, 8), np.float32), "")) for n in range(1, 100)]
    for limit in (5_000, 202_000):  # in the first rows; in the file that they are copied to
        with files_of_at_most(limit), pytest.raises(OSError, match=f"File too large: '{tmp_path / 'a'}'"):
            write_latents(tmp_path / "a", many, PRINT)
        assert list(tmp_path.iterdir()) == []


def test_columns_of_any_type_become_json(tmp_path: Path) -> None:
    meta = {"n": np.int64(3), "x": np.float32(0.5), "list": np.arange(2), "b": b"raw", "half": "\ud83d"}
    meta["nan"] = float("nan")
    write_latents(tmp_path / "a", [(1, LatentRecord(latent(1).moments, "c \ud83d", meta))], PRINT)
    ((_, record),) = read_latents(tmp_path / "a")
    assert isinstance(record, LatentRecord)
    assert record.caption == "c \ud83d"
    assert np.isnan(record.meta["nan"])
    assert {**record.meta, "nan": 0} == {"n": 3, "x": 0.5, "list": [0, 1], "b": "b'raw'", "nan": 0, "half": "\ud83d"}


def test_every_cut_is_a_bad_record(tmp_path: Path) -> None:
    data = write(tmp_path, hidden=True).read_bytes()
    cut = tmp_path / "cut"
    for size in [0, 5, 8, 9, 100, 1000, len(data) // 2, len(data) - 1]:
        cut.write_bytes(data[:size])
        assert [(n, r.reason) for n, r in read_latents(cut, 3, every=4, offset=1)] == [(1, TRUNCATED_LATENTS)]
    with pytest.raises(ValueError, match="not a whole latents file"):
        read_bad(cut)


def test_every_flipped_bit_is_found_and_harms_one_record_or_says_so(tmp_path: Path) -> None:
    """In the header, in the index, in the data: never another record than was written."""
    data = write(tmp_path, hidden=True).read_bytes()
    expected = dict(records(hidden=True))
    header = 8 + int.from_bytes(data[:8], "little")
    places = {*range(0, header, 7), *range(header, len(data), 131)}
    flipped = tmp_path / "flipped"
    harmed = named = refused = 0
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        flipped.write_bytes(damaged)
        try:
            found = list(read_latents(flipped, fingerprint=PRINT))
        except ValueError as error:
            named += str(flipped) in str(error)
            refused += 1
            assert place < header
            continue
        reasons = (CORRUPT_LATENTS, TRUNCATED_LATENTS)
        bad = [n for n, record in found if isinstance(record, BadRecord) and record.reason in reasons]
        harmed += len(bad) > 0
        assert len(bad) <= 1 or place < header
        for number, record in found:
            if number not in bad:
                assert_same(record, expected[number])
    assert named == refused
    assert harmed > 0.7 * len(places)


def test_another_fingerprint_is_an_error_and_not_a_skip(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert read_fingerprint(path) == PRINT
    assert next(iter(read_latents(path, fingerprint=dict(PRINT))))[0] == 1
    with pytest.raises(ValueError, match=r"part-000001.* resolution 64 instead of 128"):
        next(iter(read_latents(path, fingerprint={**PRINT, "resolution": 128})))


def test_what_is_not_latents_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"a caption\tNONE\taGVsbG8=\n")
    ((number, record),) = read_latents(text)
    assert (number, record.reason) == (1, NOT_LATENTS)
    with pytest.raises(ValueError, match=r"text: not a part of cached latents"):
        list(read_latents(text, fingerprint=PRINT))
    with pytest.raises(ValueError, match="not a latents file"):
        read_fingerprint(text)
    assert [r.reason for _, r in read_latents(tmp_path / "missing", fingerprint=PRINT)] == [UNREADABLE_PART]
    assert is_safetensors(write(tmp_path).read_bytes()[:HEAD_BYTES])
    assert not is_safetensors(text.read_bytes()[:HEAD_BYTES])


def test_a_part_of_bad_records_alone_and_one_of_none(tmp_path: Path) -> None:
    bad: list[tuple[int, Optional[BadRecord]]] = [(n, BadRecord("too small", str(n))) for n in (1, 2)]
    write_latents(tmp_path / "a", bad, PRINT, origin="here")
    assert list(read_latents(tmp_path / "a")) == bad
    assert read_bad(tmp_path / "a") == (2, bad)
    assert read_origin(tmp_path / "a") == (PRINT, "here")
    write_latents(tmp_path / "b", [], PRINT)
    assert [r.reason for _, r in read_latents(tmp_path / "b")] == [EMPTY_PART]


def test_both_checksum_libraries_agree() -> None:
    import zlib

    assert latent_rows.crc32(b"latents", 7) == zlib.crc32(b"latents", 7)


def test_lists_mirror_those_of_the_images(tmp_path: Path) -> None:
    sources = [Source("x", ("/d/a", "/d/b", "/d/a"), 0.5), Source("y", ("/d/b",), 2.0), Source("x", ("/d/c",), 1.0)]
    numbers = distinct_parts(sources)
    assert numbers == {"/d/a": 1, "/d/b": 2, "/d/c": 3}
    layout = LatentLayout(tmp_path / "out", "set")
    layout.prepare()
    for number in numbers.values():
        layout.part(number).touch()
    layout.write_lists(sources, numbers)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    found = read_file_list(moved / "filelist" / "set.filelist.list")
    parts = [[Path(part).name for part in source.parts] for source in found]
    assert parts == [[f"part-00000{n}.safetensors" for n in row] for row in ([1, 2, 1], [2], [3])]
    assert all(Path(part).is_file() for source in found for part in source.parts)
    assert [source.weight for source in found] == [0.5, 2.0, 1.0]
