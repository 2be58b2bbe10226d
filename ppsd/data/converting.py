"""Records of parts of any format, and of image folders -> parts of one format, in any number of processes.

A part of the input becomes a part of the output, or several of at most `per_part` records. Their bytes depend on the
records and their place in the input alone, not on who writes them when.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Callable, Optional, Union, cast

from ppsd.data.filters import Filter
from ppsd.data.jobs import run_jobs
from ppsd.data.packing import Packed, check_record, item_records, with_bytes
from ppsd.data.tally import Tally
from ppsd.formats.image_folder_writer import write_folder
from ppsd.formats.items import IMAGE_COLUMNS, FolderItem
from ppsd.formats.laion import write_part
from ppsd.formats.layout import Layout, remove_part
from ppsd.formats.lines import NO_CAPTION
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.parts import read_any
from ppsd.formats.urls import shown_url
from ppsd.formats.webdataset import write_tar
from ppsd.types import BadRecord, LatentRecord, Record

SUFFIXES = {"laion400m": "", "webdataset": ".tar", "parquet": ".parquet", "image_folder": ""}
"""Of the parts of each format that can be written."""

CACHED_LATENTS = "cached latents"
GZIP_FORMATS = ("laion400m", "webdataset")


@dataclass(frozen=True)
class PartSource:
    """A part of the input, to be read by ppsd.formats.parts.read_any."""

    path: str
    image_column: Optional[str] = None
    caption_column: Optional[str] = None

    def records(self, tally: Tally) -> Iterator[tuple[str, Record]]:
        lines = read_any(
            self.path,
            image_column=self.image_column,
            caption_column=self.caption_column,
            more_images=IMAGE_COLUMNS,
        )
        for number, record in lines:
            if isinstance(record, Record):
                record = with_bytes(record)
            bad = check_any(record)
            if bad is not None:
                tally.add(bad.reason, f"{shown_url(self.path)}:{number}", bad.detail)
            else:
                assert isinstance(record, Record)
                yield f"{shown_url(self.path)}:{number}", record


@dataclass(frozen=True)
class ItemSource:
    """A few images of the input, each with where it comes from, and what of the input is no image to be packed."""

    items: tuple[tuple[str, Union[FolderItem, BadRecord]], ...]

    def records(self, tally: Tally) -> Iterator[tuple[str, Record]]:
        usable = []
        for where, item in self.items:
            if isinstance(item, BadRecord):
                tally.add(item.reason, where, item.detail)
            elif item.caption is None:
                tally.add(NO_CAPTION, where)
            else:
                usable.append((where, item))
        return item_records(usable, tally)


AnySource = Union[PartSource, ItemSource]


@dataclass(frozen=True)
class Target:
    """What is written: parts of the layout's format."""

    layout: Layout
    gzip: bool = False
    per_part: Optional[int] = None
    keep: Optional[Filter] = None


@dataclass(frozen=True)
class Job:
    """The part, or the images, of number `number` of the input."""

    number: int
    source: AnySource
    target: Target


@dataclass
class Written:
    """Parts that wait for their names, and what was used and skipped to make them."""

    staged: list[Path] = field(default_factory=list)
    num_bytes: int = 0
    tally: Tally = field(default_factory=Tally)


def convert(
    sources: Iterable[AnySource],
    target: Target,
    *,
    num_workers: int = 0,
    on_source: Callable[[int], None] = lambda count: None,
) -> Packed:
    """Write the parts, numbered in the order of the input, and the lists last, unless nothing can be used.

    The lists of an earlier run are removed before its first part is replaced. A run that fails leaves whole parts and
    no list. on_source is called with 1 for every source that is done.

    Raises OSError for what cannot be written, ValueError for a folder in use, WorkerDied.
    """
    layout = target.layout
    layout.prepare()
    packed = Packed()
    jobs = (Job(number, source, target) for number, source in enumerate(sources, start=1))
    try:
        with closing(cast("Generator[Written, None, None]", run_jobs(write_parts, jobs, num_workers))) as results:
            for written in results:
                _take_over(written, target, packed)
                on_source(1)
    finally:
        layout.remove_temporaries()
    if packed.parts:
        layout.write_lists(packed.parts)
    return packed


def _take_over(written: Written, target: Target, packed: Packed) -> None:
    if written.staged and not packed.parts:
        target.layout.file_list.unlink(missing_ok=True)
        target.layout.filelist.unlink(missing_ok=True)
    for staged in written.staged:
        part = target.layout.part(len(packed.parts) + 1, target.gzip)
        remove_part(part)
        staged.replace(part)
        packed.parts.append(part)
    packed.num_bytes += written.num_bytes
    packed.tally.merge(written.tally)


def write_parts(job: Job) -> Written:
    """Write what can be used of a source into parts without names."""
    written = Written()
    records = _kept(job, written.tally)
    for first in records:
        rest = islice(records, job.target.per_part - 1) if job.target.per_part else records
        path = job.target.layout.staged(job.number, len(written.staged))
        written.tally.used += _write(job, path, chain([first], rest), written.tally.used + 1)
        written.staged.append(path)
        files = [path] if path.is_file() else path.iterdir()
        written.num_bytes += sum(file.stat().st_size for file in files)
    return written


def _write(job: Job, path: Path, records: Iterable[Record], first: int) -> int:
    data_format, gzip = job.target.layout.data_format, job.target.gzip
    if data_format == "image_folder":
        return write_folder(path, records)
    if data_format == "webdataset":
        return write_tar(path, records, gzip, prefix=f"{job.number:06d}_", first=first)
    return write_parquet(path, records) if data_format == "parquet" else write_part(path, records, gzip)


def _kept(job: Job, tally: Tally) -> Iterator[Record]:
    keep = job.target.keep
    for where, record in job.source.records(tally):
        bad = keep(record) if keep is not None else None
        if bad is None:
            yield record
        else:
            tally.add(bad.reason, where, bad.detail)


def check_any(record: Record | LatentRecord | BadRecord) -> BadRecord | None:
    """None for a record that can be written."""
    if isinstance(record, LatentRecord):
        return BadRecord(CACHED_LATENTS, "no image is in it; convert the parts that it was made from")
    return record if isinstance(record, BadRecord) else check_record(record)
