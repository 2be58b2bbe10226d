"""Writing what can be used of a data set as a new one: LAION parts and their lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Callable

import numpy as np

from ppsd.data.inspection.journal import Journal
from ppsd.data.jobs import run_jobs
from ppsd.data.packing import with_bytes
from ppsd.data.source import ReadPart, RecordSource
from ppsd.formats.extras import MAX_META_BYTES, extras_json, further_images
from ppsd.formats.filelist import FILELIST_SUFFIX, relative_entry, write_file_list, write_filelist
from ppsd.formats.image_bytes import MAX_IMAGE_BYTES
from ppsd.formats.inflate import GZIP_MAGIC
from ppsd.formats.laion import write_part
from ppsd.formats.layout import Layout
from ppsd.formats.opening import open_input
from ppsd.formats.urls import shown_url
from ppsd.types import BadRecord, LatentRecord, Record

LOOK_PARTS = 8
LOOK_RECORDS = 64


@dataclass(frozen=True)
class CleanJob:
    """The records of these numbers [N] (sorted) of a part, to be written as the part `out` (.gz is added to it)."""

    path: str
    read: ReadPart
    numbers: np.ndarray
    out: Path


@dataclass
class Cleaned:
    """What has been written. dropped: usable records that were left out as copies; file_list: of the new data set."""

    file_list: Path
    parts: int = 0
    records: int = 0
    dropped: int = 0
    left_out: list[str] = field(default_factory=list)


def check_output(layout: Layout) -> None:
    """Raises ValueError when there is a data set already."""
    if layout.file_list.exists():
        raise ValueError(f"--fix {layout.root}: {layout.file_list} is there already; name another folder, or remove it")


def check_images(sources: Sequence[RecordSource]) -> None:
    """Raises ValueError when the first records of a source are latents, before everything is read."""
    for source in sources:
        for part in islice(source.parts, LOOK_PARTS):
            records = (record for _, record in islice(source.read(part), LOOK_RECORDS))
            record = next((record for record in records if not isinstance(record, BadRecord)), None)
            if isinstance(record, LatentRecord):
                raise _holds_latents(part)
            if record is not None:
                break


def _holds_latents(path: str) -> ValueError:
    return ValueError(f"{shown_url(path)}: holds latents, which --fix cannot write; fix the images they were made of")


def write_clean(
    sources: Sequence[RecordSource],
    journal: Journal,
    layout: Layout,
    *,
    drop_duplicates: bool = False,
    num_workers: int = 0,
    on_part: Callable[[int], None] = lambda records: None,
) -> Cleaned:
    """The usable records that a whole inspection has found, each part as a new one, in the lists' order and weights.

    Parts are compressed if they were, and the lists come last. drop_duplicates: of images that are the same byte for
    byte only the first is kept; that needs about 24 bytes a record. Raises ValueError for parts that have changed,
    OSError for what cannot be written.
    """
    check_output(layout)
    for filelist in _filelists(sources, layout):
        filelist.unlink(missing_ok=True)  # of a run that was killed before it wrote the list of them
    layout.prepare()
    cleaned = Cleaned(layout.file_list)
    new_parts: list[dict[int, str]] = [{} for _ in sources]
    jobs = _jobs(sources, journal, layout, drop_duplicates, cleaned)
    for source, part, out, records in run_jobs(_clean_part, jobs, num_workers):
        new_parts[source][part] = out
        cleaned.parts += 1
        cleaned.records += records
        on_part(records)
    _write_lists(sources, new_parts, layout, cleaned)
    return cleaned


def _jobs(
    sources: Sequence[RecordSource], journal: Journal, layout: Layout, drop: bool, cleaned: Cleaned
) -> Iterator[tuple[int, int, CleanJob]]:
    """One for each part with records to keep."""
    first = _firsts(sources, journal) if drop else None
    number, begin = 0, 0
    for result in journal.results(sources):
        rows = result.rows[result.rows["good"]]
        end = begin + len(rows)
        if first is not None:
            cleaned.dropped += int((~first[begin:end]).sum())
            rows = rows[first[begin:end]]
        begin = end
        if len(rows):
            number += 1
            job = CleanJob(result.path, sources[result.source].read, rows["number"], layout.part(number, gzip=False))
            yield result.source, result.part, job


def _firsts(sources: Sequence[RecordSource], journal: Journal) -> np.ndarray:
    """Whether each usable record is the first with its image: bool [N], in the journal's order."""
    hashes = [result.rows["content"][result.rows["good"]].copy() for result in journal.results(sources)]
    every = np.concatenate([np.empty(0, np.uint64), *hashes])
    del hashes
    first = np.zeros(len(every), bool)
    first[np.unique(every, return_index=True)[1]] = True
    return first


def _clean_part(job: tuple[int, int, CleanJob]) -> tuple[int, int, str, int]:
    """(source, part, path of the new part, records)."""
    source, part, clean = job
    compressed = _is_gzip(clean.path)
    out = clean.out.with_name(f"{clean.out.name}.gz") if compressed else clean.out
    return source, part, str(out), write_part(out, _wanted(clean), compressed)


def _wanted(job: CleanJob) -> Iterator[Record]:
    """The job's records but for those that do not fit into a line or have a further image that cannot be read.

    Raises ValueError when one is not there any more.
    """
    numbers = iter(job.numbers.tolist())
    wanted = next(numbers, None)
    for number, record in job.read(job.path):
        if wanted is None:
            return
        if number < wanted:
            continue
        if isinstance(record, LatentRecord):
            raise _holds_latents(job.path)
        if number > wanted or not isinstance(record, Record):
            break
        wanted = next(numbers, None)
        whole = with_bytes(record)
        if isinstance(whole, Record) and _fits(whole):
            yield whole
    if wanted is not None:
        raise ValueError(f"{job.path}:{wanted}: was usable when it was inspected; has the part changed since?")


def _fits(record: Record) -> bool:
    images = further_images(record)
    size = len(record.image) + sum(map(len, images.values()))
    return size <= MAX_IMAGE_BYTES and len(extras_json(record, list(images)).encode()) < MAX_META_BYTES


def _is_gzip(path: str) -> bool:
    try:
        with open_input(path) as file:
            return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    except IsADirectoryError:  # a folder of images
        return False


def _write_lists(
    sources: Sequence[RecordSource], new_parts: Sequence[dict[int, str]], layout: Layout, cleaned: Cleaned
) -> None:
    """A filelist for each source that has parts left, and the list over them."""
    entries, weights = [], []
    for index, (source, filelist) in enumerate(zip(sources, _filelists(sources, layout))):
        by_path = {source.parts[part]: out for part, out in new_parts[index].items()}
        outs = [by_path[path] for path in source.parts if path in by_path]
        if not outs:
            cleaned.left_out.append(source.name)
            continue
        write_filelist(filelist, [relative_entry(out, filelist) for out in outs])
        entries.append(relative_entry(filelist, layout.file_list))
        weights.append(source.weight)
    if not entries:
        raise ValueError(f"--fix {layout.root}: there is not one usable record to write")
    given = [weight for weight in weights if weight is not None]
    write_file_list(layout.file_list, entries, given if len(given) == len(entries) else None)


def _filelists(sources: Sequence[RecordSource], layout: Layout) -> list[Path]:
    """One for each source."""
    if len(sources) == 1:
        return [layout.filelist]
    names = (f"{layout.name}-{number}-{_plain(source.name)}" for number, source in enumerate(sources, start=1))
    return [layout.filelist.with_name(f"{name}{FILELIST_SUFFIX}") for name in names]


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
