"""Images with captions -> LAION parts, in any number of processes, in bounded memory.

The bytes of a part depend on its images, captions and place in the input alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Callable, Union

from ppsd.data.decode import open_image
from ppsd.data.jobs import WorkerDied, run_jobs
from ppsd.data.tally import Tally
from ppsd.formats.items import FolderItem
from ppsd.formats.laion import EMPTY_IMAGE, write_part
from ppsd.formats.layout import Layout
from ppsd.formats.lines import NO_CAPTION
from ppsd.types import BadRecord, Record

UNREADABLE_IMAGE = "unreadable image"
IMAGE_TOO_LARGE = "image file too large"
CAPTION_TOO_LONG = "caption too long"
MAX_IMAGE_BYTES = 47 * 2**20  # with the longest caption, base64 of it just fits into a line of ppsd.formats.lines
MAX_CAPTION_BYTES = 2**20

Items = Iterable[tuple[str, Union[FolderItem, BadRecord]]]


@dataclass(frozen=True)
class Job:
    """One part to write from `items`, each with where it comes from; `rows` of the input led to it."""

    part: Path
    items: tuple[tuple[str, FolderItem], ...]
    gzip: bool
    rows: int
    outdated: tuple[Path, ...]


@dataclass
class Packed:
    """What has been packed: the parts written, their size in bytes, records used and skipped."""

    parts: list[Path] = field(default_factory=list)
    num_bytes: int = 0
    tally: Tally = field(default_factory=Tally)


def pack(
    items: Items,
    layout: Layout,
    *,
    per_part: int,
    gzip: bool = False,
    num_repeat: int = 1,
    num_workers: int = 0,
    on_part: Callable[[int], None] = lambda rows: None,
) -> Packed:
    """Pack all items into parts of `per_part` and write the lists last, unless no item is usable.

    The lists of an earlier run are removed before its first part is replaced, so that no list ever names a mixture; a
    run that fails leaves whole parts and no list. A part of which no image is usable is left out. on_part gets the
    number of input rows that a finished part stands for.

    Raises OSError for what cannot be written, ValueError for a folder in use, WorkerDied.
    """
    layout.prepare()
    read, packed = Tally(), Packed()
    jobs = _jobs(items, layout, per_part, gzip, read)
    try:
        for rows, part in run_jobs(pack_part, jobs, num_workers):
            packed.parts += part.parts
            packed.num_bytes += part.num_bytes
            packed.tally.merge(part.tally)
            on_part(rows)
    except WorkerDied:
        layout.remove_temporaries()
        raise
    packed.tally.merge(read)
    if packed.parts:
        layout.write_lists(packed.parts, num_repeat)
    return packed


def _jobs(items: Items, layout: Layout, per_part: int, gzip: bool, tally: Tally) -> Iterator[Job]:
    outdated = (layout.file_list, layout.filelist)
    chunk: list[tuple[str, FolderItem]] = []
    rows = number = 0
    for where, item in items:
        rows += 1
        if isinstance(item, BadRecord):
            tally.add(item.reason, where, item.detail)
        elif item.caption is None:
            tally.add(NO_CAPTION, where)
        else:
            chunk.append((where, item))
        if len(chunk) == per_part:
            number += 1
            yield Job(layout.part(number, gzip), tuple(chunk), gzip, rows, outdated)
            chunk, rows = [], 0
    if chunk:
        yield Job(layout.part(number + 1, gzip), tuple(chunk), gzip, rows, outdated)


def pack_part(job: Job) -> tuple[int, Packed]:
    """Write one part, unless none of its images is usable; returns its number of input rows and what was packed."""
    packed = Packed()
    records = _records(job.items, packed.tally)
    first = next(records, None)
    if first is not None:
        for path in job.outdated:
            path.unlink(missing_ok=True)
        packed.tally.used = write_part(job.part, chain([first], records), gzip=job.gzip)
        packed.parts.append(job.part)
        packed.num_bytes = job.part.stat().st_size
    return job.rows, packed


def _records(items: Iterable[tuple[str, FolderItem]], tally: Tally) -> Iterator[Record]:
    for where, item in items:
        record = _record(item)
        if isinstance(record, BadRecord):
            tally.add(record.reason, where, record.detail)
        else:
            yield record


def _record(item: FolderItem) -> Record | BadRecord:
    assert item.caption is not None
    size = len(item.caption.encode("utf-8"))
    if size > MAX_CAPTION_BYTES:
        return BadRecord(CAPTION_TOO_LONG, f"{size} bytes, the limit is {MAX_CAPTION_BYTES}")
    image = read_image(item.image)
    return image if isinstance(image, BadRecord) else Record(image, item.caption)


def read_image(path: Path) -> bytes | BadRecord:
    """The bytes of an image file, of which the header has been looked at."""
    try:
        size = os.stat(path).st_size
        if size > MAX_IMAGE_BYTES:
            return BadRecord(IMAGE_TOO_LARGE, f"{path}: {size} bytes, the limit is {MAX_IMAGE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        return BadRecord(UNREADABLE_IMAGE, f"{path}: {error.strerror or error}")
    if not data:
        return BadRecord(EMPTY_IMAGE, str(path))
    image = open_image(data)
    return BadRecord(image.reason, f"{path}: {image.detail}") if isinstance(image, BadRecord) else data
