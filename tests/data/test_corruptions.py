"""Generated corruptions of LAION parts and of file lists, over 200 of them: what is damaged is skipped and counted, or
stops the run with a message that names the file, and never hangs, crashes a worker, or gives a record another's image.

What can be promised depends on what the damaged layer lets a reader know:

- A LAION part that is not compressed: damage stays within its lines. Every line that is not touched gives its record.
  Every line is either used or counted. What a touched line gives is a function of the bytes of that line alone.
- gzip has a checksum, but at its end: records that come out of a damaged part before its end is reached may be those of
  changed lines. The damage is counted at the latest at the end of the part, with part and line, and nothing that is
  missing goes uncounted.
- JPEG has no checksum: damage in the compressed pixels may decode to another picture. A file that is cut off is
  skipped, unless only what follows the pixels was cut. No sample ever shows what was decoded before it.
- Captions have none, either: a changed caption is used where it is text. Its image stays its own.
- File lists: a damaged path is a part that is not there, and counted, or a list that is refused by name.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, strategies

from ppsd.types import Record
from tests.data.damage import Damage, damages, examples
from tests.data.damaged_streams import (
    OTHERS,
    PARTS,
    PER_PART,
    RECORDS,
    Epoch,
    epoch_or_error,
    is_of,
    make,
    missing_from,
    names_a_line,
    origins,
    part_of,
    read_epoch,
    second_part,
    shows,
    text_of,
    write_set,
)
from tests.data.plain_reading import inflated, lines_of
from tests.images import jpeg_bytes, part_line

pytestmark = pytest.mark.timeout(120)

SECOND = part_of(RECORDS, 1)
some_line = strategies.integers(0, PER_PART - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory is empty: a path that damage has left as "." is read there, and may hold pictures."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("empty"))
    yield tmp_path_factory.mktemp("damaged")
    os.chdir(before)


def check_lines(epoch: Epoch, text: bytes) -> None:
    """That an epoch is exactly the lines of `text`, the second part, and the records of the others."""
    lines = lines_of(text)
    assert epoch.counted(len(OTHERS) + max(1, len(lines)))  # a part without a line counts as one bad record
    possible = [*(RECORDS[i] for i in OTHERS), *(line for line in lines if line is not None)]
    for sample in epoch.samples:
        place = next((i for i, record in enumerate(possible) if is_of(sample, record)), None)
        assert place is not None, "a sample of no line"
        del possible[place]  # each line once
    assert not [record for record in possible if record in RECORDS], "a record that is whole is missing"


@given(damages(), some_line)
@examples(45)
def test_base64_columns(folder: Path, damage: Damage, line: int) -> None:
    rows = [part_line(record.caption, record.image) for record in SECOND]
    head, _, column = rows[line].rpartition(b"\t")
    rows[line] = head + b"\t" + damage(column)
    text = b"".join(rows)
    check_lines(read_epoch(write_set(folder, text)), text)


@given(damages(), some_line)
@examples(30)
def test_captions(folder: Path, damage: Damage, line: int) -> None:
    """Captions of four scripts; the damage reaches the tab behind them, too."""
    rows = [part_line(f"猫 Катя élan {record.caption}", record.image) for record in SECOND]
    caption, tab, rest = rows[line].partition(b"\t")
    rows[line] = damage(caption + tab) + rest
    text = b"".join(rows)
    epoch = read_epoch(write_set(folder, text))
    check_lines(epoch, text)
    assert all(any(shows(sample, record) for record in RECORDS) for sample in epoch.samples)


@given(damages())
@examples(20)
def test_whole_parts(folder: Path, damage: Damage) -> None:
    """Anywhere in a part, line ends included; damage may reach over many lines."""
    text = damage(text_of(SECOND))
    check_lines(read_epoch(write_set(folder, text)), text)


@given(damages(), some_line)
@examples(45)
def test_jpeg_files(folder: Path, damage: Damage, number: int) -> None:
    records = list(SECOND)
    records[number] = Record(damage(records[number].image), records[number].caption)
    text = text_of(records)
    epoch = read_epoch(write_set(folder, text))
    check_lines(epoch, text)
    found = origins(epoch.samples)
    if damage.kind == "cut":
        assert None not in found, "a file that was cut off has given another picture"
    for sample in (sample for sample, origin in zip(epoch.samples, found) if origin is None):
        for before in (jpeg_bytes(60, 60, seed=98), jpeg_bytes(60, 60, seed=99)):
            make(Record(before, ""), 0)
            assert is_of(sample, records[number]), "what a file decodes to depends on the one before"


def check_gzip(epoch: Epoch, data: bytes, file: Path) -> None:
    """What is promised of a set whose second part is a gzip file of these bytes."""
    found = origins(epoch.samples)
    missing = missing_from(found)
    if missing or None in found:
        assert names_a_line(epoch, file)
    if _unpacked(data) == text_of(SECOND):
        assert not missing
        assert len(found) == len(RECORDS)
        assert epoch.skipped == (0, 0)
    lines = [line for line in lines_of(inflated(data)) if line is not None]
    for sample, origin in zip(epoch.samples, found):
        assert origin is not None or any(is_of(sample, line) for line in lines)


def _unpacked(data: bytes) -> bytes:
    """What the standard library makes of a gzip file; nothing of a damaged one."""
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return b""


@given(damages())
@examples(45)
def test_gzip_parts(folder: Path, damage: Damage) -> None:
    first, second, third = (gzip.compress(text_of(part_of(RECORDS, number)), mtime=0) for number in range(PARTS))
    data = damage(second)
    check_gzip(read_epoch(write_set(folder, data, ".gz", (first, third))), data, second_part(folder, ".gz"))


@given(damages(), strategies.booleans())
@examples(12)
def test_with_a_worker_process(folder: Path, damage: Damage, packed: bool) -> None:
    """The same promises; a worker that dies would raise RuntimeError."""
    data = damage(gzip.compress(text_of(SECOND), mtime=0) if packed else text_of(SECOND))
    epoch = read_epoch(write_set(folder, data), num_workers=1)
    if packed:
        check_gzip(epoch, data, second_part(folder))
    else:
        check_lines(epoch, data)


def names_a_file(error: Exception) -> bool:
    """Whether a message names a file list, or a part with a line of it."""
    return "set.filelist" in str(error) or re.search(r"\n +\S+:\d+ ", str(error)) is not None


@given(damages())
@example(Damage("cut", 1 / 48, 0, 1))  # "." is a folder and no part
@example(Damage("cut", 2 / 48, 0, 1))
@example(Damage("cut", 9 / 48, 0, 1))
@example(Damage("remove", 1 / 48, 0, 1))
@examples(35)
def test_filelists(folder: Path, damage: Damage) -> None:
    file_list = write_set(folder, text_of(SECOND))
    filelist = folder / "filelist" / "set.filelist"
    listed = damage(filelist.read_bytes())
    filelist.write_bytes(listed)
    epoch = epoch_or_error(file_list)
    if not isinstance(epoch, Epoch):
        assert names_a_file(epoch)
        return
    found = origins(epoch.samples)
    assert None not in found
    # Doubled slashes and dots change nothing; a flipped digit names another part of the set.
    paths = [os.path.normpath(line.strip()) for line in listed.split(b"\n") if line.strip()]
    known = [b"../parts/part-%d" % (number + 1) for number in range(PARTS)]
    for number in range(PARTS):
        times = paths.count(known[number])
        assert all(found.count(RECORDS.index(record)) == times for record in part_of(RECORDS, number))
    assert bool(epoch.tally.skipped) == any(path not in known for path in paths)


@given(damages())
@examples(20)
def test_lists_of_filelists(folder: Path, damage: Damage) -> None:
    file_list = write_set(folder, text_of(SECOND))
    file_list.write_bytes(damage(b"../filelist/set.filelist 1.0\n../filelist/set.filelist 2.0\n"))
    epoch = epoch_or_error(file_list)
    if isinstance(epoch, Epoch):
        assert None not in origins(epoch.samples)
    else:
        assert names_a_file(epoch)
