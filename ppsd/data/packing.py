"""Images with captions -> LAION parts, in any number of processes, in bounded memory.

The bytes of a part depend on its images, captions and place in the input alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Callable, Optional, Union

from ppsd.data.condition_pictures import same_shape
from ppsd.data.conditions import COLUMNS, NOUNS
from ppsd.data.decode import open_image, upright_size
from ppsd.data.jobs import WorkerDied, run_jobs
from ppsd.data.tally import Tally
from ppsd.formats.extras import MAX_META_BYTES, extras_json, further_images
from ppsd.formats.image_bytes import IMAGE_TOO_LARGE, check_size, read_image_file
from ppsd.formats.image_bytes import MAX_IMAGE_BYTES as MAX_IMAGE_BYTES
from ppsd.formats.items import FolderItem
from ppsd.formats.laion import write_part
from ppsd.formats.layout import Layout
from ppsd.formats.lines import NO_CAPTION
from ppsd.types import BadRecord, Record

CAPTION_TOO_LONG = "caption too long"
META_TOO_LONG = "meta too long"
MAX_CAPTION_BYTES = 2**20

Items = Iterable[tuple[str, Union[FolderItem, BadRecord]]]


@dataclass(frozen=True)
class Job:
    """One part to write from `items`, each with where it comes from; `rows` of the input led to it.

    conditioning_key: the column of conditioning images that are packed, too.
    """

    part: Path
    items: tuple[tuple[str, FolderItem], ...]
    gzip: bool
    rows: int
    outdated: tuple[Path, ...]
    conditioning_key: Optional[str] = None


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
    conditioning_key: Optional[str] = None,
) -> Packed:
    """Pack all items into parts of `per_part` and write the lists last, unless no item is usable.

    The lists of an earlier run are removed before its first part is replaced, so that no list ever names a mixture; a
    run that fails leaves whole parts and no list. A part of which no image is usable is left out. on_part gets the
    number of input rows that a finished part stands for. conditioning_key: the column of conditioning images, which
    become a column of the parts; an item without one is not usable then.

    Raises OSError for what cannot be written, ValueError for a folder in use, WorkerDied.
    """
    layout.prepare()
    read, packed = Tally(), Packed()
    jobs = (replace(job, conditioning_key=conditioning_key) for job in _jobs(items, layout, per_part, gzip, read))
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
    records = _records(job.items, packed.tally, job.conditioning_key)
    first = next(records, None)
    if first is not None:
        for path in job.outdated:
            path.unlink(missing_ok=True)
        packed.tally.used = write_part(job.part, chain([first], records), gzip=job.gzip)
        packed.parts.append(job.part)
        packed.num_bytes = job.part.stat().st_size
    return job.rows, packed


def _records(items: Iterable[tuple[str, FolderItem]], tally: Tally, key: Optional[str]) -> Iterator[Record]:
    """What is packed: image and captions, and perhaps the conditioning image, without the other columns."""
    for where, item in items:
        record = _record(replace(item, meta={})) if key is None else _conditioned(item, key)
        if isinstance(record, BadRecord):
            tally.add(record.reason, where, record.detail)
        else:
            yield record


def _conditioned(item: FolderItem, key: str) -> Record | BadRecord:
    """The record with its conditioning image under the usual name, whatever `key` it had."""
    path = item.meta.get(key)
    if not path:
        return BadRecord(f"no {NOUNS['conditioning']}", f"nothing under {key!r}")
    record = _record(replace(item, meta={COLUMNS["conditioning"]: path}))
    return record if isinstance(record, BadRecord) else check_images(record) or record


def item_records(items: Iterable[tuple[str, FolderItem]], tally: Tally) -> Iterator[tuple[str, Record]]:
    """The records of the items that can be used; the others are counted."""
    for where, item in items:
        record = _record(item)
        if isinstance(record, BadRecord):
            tally.add(record.reason, where, record.detail)
        else:
            yield where, record


def _record(item: FolderItem) -> Record | BadRecord:
    assert item.caption is not None
    bad = check_caption(item.caption)
    image = bad or read_image_file(item.image)
    if isinstance(image, BadRecord):
        return image
    record = with_bytes(Record(image, item.caption, item.meta, item.more_captions))
    bad = record if isinstance(record, BadRecord) else check_record(record)
    return BadRecord(bad.reason, f"{item.image}: {bad.detail}") if bad else record


def with_bytes(record: Record) -> Record | BadRecord:
    """The record with the bytes of further images where its meta has paths of them."""
    if not any(isinstance(value, (Path, BadRecord)) for value in record.meta.values()):
        return record
    meta = {name: read_image_file(value) if isinstance(value, Path) else value for name, value in record.meta.items()}
    for name, value in meta.items():
        if isinstance(value, BadRecord):
            return BadRecord(f"{name}: {value.reason}", value.detail)
    return replace(record, meta=meta)


def check_images(record: Record) -> BadRecord | None:
    """None where the further images are images, and of the shape of the image."""
    size = upright_size(record.image)
    for name, data in further_images(record).items():
        own = upright_size(data)
        if isinstance(own, BadRecord):
            return BadRecord(f"{name}: {own.reason}", own.detail)
        if not isinstance(size, BadRecord) and not same_shape(own, size):
            detail = f"{own[0]} x {own[1]}, the image is {size[0]} x {size[1]}"
            return BadRecord(f"{name}: other shape than the image", detail)
    return None


def check_caption(caption: str) -> BadRecord | None:
    """None for a caption that a part can hold."""
    size = len(caption.encode("utf-8"))
    if size > MAX_CAPTION_BYTES:
        return BadRecord(CAPTION_TOO_LONG, f"{size} bytes, the limit is {MAX_CAPTION_BYTES}")
    return None


def check_record(record: Record) -> BadRecord | None:
    """None for a record that every format can hold, and of whose image the header can be read."""
    bad = check_size(len(record.image), "the image") or check_caption(record.caption)
    images = further_images(record)
    together = len(record.image) + sum(map(len, images.values()))
    if bad is None and together > MAX_IMAGE_BYTES:
        bad = BadRecord(IMAGE_TOO_LARGE, f"{together} bytes with further images, the limit is {MAX_IMAGE_BYTES}")
    if bad is None and (record.meta or record.more_captions):
        size = len(extras_json(record, list(images)).encode())
        if size >= MAX_META_BYTES:
            bad = BadRecord(META_TOO_LONG, f"{size} bytes with further captions, the limit is {MAX_META_BYTES}")
    image = bad or open_image(record.image)
    return image if isinstance(image, BadRecord) else None
