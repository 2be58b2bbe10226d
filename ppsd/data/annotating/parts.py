"""Parts with a column more: one new part for each, of the same format."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Callable, Optional, Union, cast

from ppsd.data.annotating.pictures import Settings, fingerprint, maker_of, points_of
from ppsd.data.jobs import run_jobs
from ppsd.data.packing import check_record, with_bytes
from ppsd.data.tally import Tally
from ppsd.formats.atomic import atomic_write
from ppsd.formats.filelist import Source, relative_entry, write_file_list, write_filelist
from ppsd.formats.image_folder_writer import write_folder
from ppsd.formats.items import IMAGE_COLUMNS
from ppsd.formats.laion import write_part
from ppsd.formats.latent_layout import LatentLayout, distinct_parts
from ppsd.formats.layout import remove_part
from ppsd.formats.parquet_writer import write_parquet
from ppsd.formats.part_kind import PartKind, part_kind
from ppsd.formats.parts import read_any
from ppsd.formats.stamp import part_stamp
from ppsd.formats.urls import shown_url
from ppsd.formats.webdataset import write_tar
from ppsd.types import BadRecord, LatentRecord, Record

CACHED_LATENTS = "cached latents"
_NOTES = ".made"


@dataclass(frozen=True)
class Task:
    """What is done to every part. overwrite: also where the column is there already; columns: see read_any."""

    settings: Settings
    column: str
    folder: Path
    overwrite: bool = False
    data_format: str = "auto"
    image_column: Optional[str] = None
    caption_column: Optional[str] = None

    def origin(self, part: str) -> list[Any]:
        """What a new part is a function of."""
        asked = [self.column, self.overwrite, self.data_format, self.image_column, self.caption_column]
        stamp = part_stamp(part)
        return [self.settings.digest, part if stamp is None else os.path.abspath(part), stamp, *asked]

    def note(self, number: int) -> Path:
        """The file that says that part `number` is made."""
        return self.folder / _NOTES / f"part-{number:06d}.json"


@dataclass(frozen=True)
class Job:
    """Part `number` of the input."""

    task: Task
    number: int
    part: str


@dataclass
class Made:
    """What a part has become. name: of the new file, None where nothing of it can be used; kept: of the records used
    those that had the column already; again: whether it was there from an earlier run."""

    origin: list[Any]
    name: Optional[str] = None
    num_bytes: int = 0
    kept: int = 0
    tally: Tally = field(default_factory=Tally)
    again: bool = False


def annotate_parts(
    sources: Sequence[Source],
    task: Task,
    layout: LatentLayout,
    *,
    num_workers: int = 0,
    on_part: Callable[[Made], Any] = lambda made: None,
) -> dict[str, Made]:
    """Write the parts that are not there yet, and then the lists: the sources' order, repeats and weights.

    A part is there when its note is, which is written after it and says what it was made of. Before one is replaced the
    lists go, so that none names a mixture. Parts of which nothing can be used are in no list. Raises OSError for what
    cannot be written, ValueError, WorkerDied.
    """
    numbers = distinct_parts(sources)
    (task.folder / _NOTES).mkdir(parents=True, exist_ok=True)
    layout.file_list.parent.mkdir(parents=True, exist_ok=True)
    for temporary in (*task.folder.glob(".part-*.tmp"), *(task.folder / _NOTES).glob(".*.tmp")):
        remove_part(temporary)
    found = {part: made_before(Job(task, number, part)) for part, number in numbers.items()}
    if None in found.values():
        layout.remove_lists(sources)
    jobs = (Job(task, number, part) for part, number in numbers.items() if found[part] is None)
    done: dict[str, Made] = {}
    with closing(cast("Generator[Made, None, None]", run_jobs(annotate_part, jobs, num_workers))) as results:
        for part in numbers:
            done[part] = found[part] or next(results)
            on_part(done[part])
    write_lists(sources, done, task.folder, layout)
    return done


def made_before(job: Job) -> Optional[Made]:
    """What the note says, if the part is as it was then and was made of what there is now."""
    try:
        note = json.loads(job.task.note(job.number).read_text(encoding="utf-8"))
        made = Made(**{**note, "tally": Tally(**note["tally"]), "again": True})
    except (OSError, ValueError, TypeError, KeyError):  # none, or not one of this version
        return None
    if made.origin != json.loads(json.dumps(job.task.origin(job.part))):
        return None
    return made if made.name is None or _num_bytes(job.task.folder / made.name) == made.num_bytes else None


def annotate_part(job: Job) -> Made:
    """Write the new part, whole or not at all, and then its note."""
    task, made = job.task, Made(job.task.origin(job.part))
    task.note(job.number).unlink(missing_ok=True)
    for earlier in (*task.folder.glob(f"part-{job.number:06d}"), *task.folder.glob(f"part-{job.number:06d}.*")):
        remove_part(earlier)
    records = _records(job, made)
    first = next(records, None)
    if first is not None:
        kind = part_kind(job.part, task.data_format)
        path = task.folder / f"part-{job.number:06d}{kind.suffix}"
        made.tally.used = _write(path, kind, chain([first], records))
        made.name, made.num_bytes = path.name, _num_bytes(path)
    with atomic_write(task.note(job.number)) as file:
        note = {**asdict(made), "tally": asdict(made.tally)}
        file.write(json.dumps(note, ensure_ascii=True).encode())
    return made


def _num_bytes(path: Path) -> int:
    """Of a file, or of all files in a folder; -1 where there is none."""
    stamp = part_stamp(str(path))
    return -1 if stamp is None else stamp[0]


def _write(path: Path, kind: PartKind, records: Iterable[Record]) -> int:
    if kind.data_format == "image_folder":
        return write_folder(path, records)
    if kind.data_format == "webdataset":
        return write_tar(path, records, kind.gzip)
    return write_parquet(path, records) if kind.data_format == "parquet" else write_part(path, records, kind.gzip)


def _records(job: Job, made: Made) -> Iterator[Record]:
    """The records that can be used, with the column; the others are counted."""
    task = job.task
    lines = read_any(
        job.part,
        data_format=task.data_format,
        image_column=task.image_column,
        caption_column=task.caption_column,
        more_images=tuple(dict.fromkeys((*IMAGE_COLUMNS, task.column))),
    )
    for number, record in lines:
        if isinstance(record, LatentRecord):
            record = BadRecord(CACHED_LATENTS, "no image is in it; annotate the parts that it was made from")
        had = isinstance(record, Record) and record.meta.get(task.column) is not None and not task.overwrite
        annotated = record if isinstance(record, BadRecord) else annotated_record(record, task, had)
        if isinstance(annotated, BadRecord):
            made.tally.add(annotated.reason, f"{shown_url(job.part)}:{number}", annotated.detail)
        else:
            made.kept += had
            yield annotated


def annotated_record(record: Record, task: Task, had: bool) -> Union[Record, BadRecord]:
    """The record with the column, as bytes, with all images of a format that every part can hold."""
    others = {name: value for name, value in record.meta.items() if had or name != task.column}
    whole = with_bytes(replace(record, meta=others))
    bad = whole if isinstance(whole, BadRecord) else check_record(whole)
    if bad is not None or had:
        return bad or whole
    points = points_of(task.settings, record.meta, None)
    mark = fingerprint(task.settings, record.image, points)
    picture = maker_of(task.settings)(record.image, points, mark)
    if isinstance(picture, BadRecord):
        return picture
    assert isinstance(whole, Record)
    annotated = replace(whole, meta={**whole.meta, task.column: picture})
    return check_record(annotated) or annotated


def write_lists(sources: Sequence[Source], done: dict[str, Made], folder: Path, layout: LatentLayout) -> None:
    """A filelist for each source that has parts left, and the list over them; none where nothing is left at all."""
    entries, weights = [], []
    for source, filelist in zip(sources, layout.filelists(sources)):
        parts = [folder / name for part in source.parts if (name := done[part].name) is not None]
        if parts:
            write_filelist(filelist, [relative_entry(part, filelist) for part in parts])
            entries.append(relative_entry(filelist, layout.file_list))
            weights.append(source.weight)
    given = [weight for weight in weights if weight is not None]
    if entries:
        write_file_list(layout.file_list, entries, given if len(given) == len(entries) else None)
