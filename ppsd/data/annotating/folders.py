"""A folder of images with a column more: images, pictures in a folder of their own, and metadata.jsonl."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional, Union, cast

from ppsd.data.annotating.pictures import Place, Settings, fingerprint, maker_of, mark_of, name_of_points, points_of
from ppsd.data.decode import open_image
from ppsd.data.jobs import run_jobs
from ppsd.data.tally import Tally
from ppsd.formats.atomic import atomic_write
from ppsd.formats.extras import plain
from ppsd.formats.image_bytes import read_image_file
from ppsd.formats.image_folder_writer import METADATA
from ppsd.formats.items import FolderItem
from ppsd.formats.lines import NO_CAPTION, json_line
from ppsd.types import BadRecord

OUTSIDE_FOLDER, ROOT_FOLDER = "_outside", "_root"
_A_JOB = 16
_REPEATS = r"\d+_.+"

Items = Iterable[tuple[str, Union[FolderItem, BadRecord]]]
Row = dict[str, Any]


@dataclass(frozen=True)
class FolderTask:
    """What is done to every image of the folder `root`; `output` is another folder.

    grouped: what the names of the folders in `root` say (kohya's "10_a dog") is kept, so that each of them becomes a
    folder with its own metadata. caption_column: the name that captions get.
    """

    settings: Settings
    column: str
    root: Path
    output: Path
    caption_column: str = "text"
    overwrite: bool = False
    grouped: bool = False

    def places(self, image: Path) -> tuple[Path, Path]:
        """The folder whose metadata has an image, and the image's name from there, both of the output."""
        name = self.name(image)
        top, slash, rest = name.partition(os.sep)
        if not self.grouped:
            return self.output, Path(name)
        return (self.output / top, Path(rest)) if slash else (self.output / ROOT_FOLDER, Path(name))

    def name(self, file: Path) -> str:
        """Where in the output a file of the input is copied to: as in `root`, or by where else it is."""
        name = os.path.relpath(os.path.abspath(file), os.path.abspath(self.root))
        if name != os.pardir and not name.startswith(os.pardir + os.sep):
            return name
        folder = hashlib.blake2b(os.fsencode(os.path.abspath(file.parent)), digest_size=4).hexdigest()
        return os.path.join(OUTSIDE_FOLDER, folder, file.name)


@dataclass(frozen=True)
class Job:
    """A few images, each with where it comes from."""

    task: FolderTask
    items: tuple[tuple[str, Union[FolderItem, BadRecord]], ...]


@dataclass
class Annotated:
    """kept: images that had the column already; again: those that were done by an earlier run; folders: of metadata."""

    tally: Tally = field(default_factory=Tally)
    kept: int = 0
    again: int = 0
    folders: list[Path] = field(default_factory=list)


@dataclass
class Done:
    """What has become of a job's images: their rows, by the folder whose metadata they belong to."""

    rows: list[tuple[Path, Row]] = field(default_factory=list)
    result: Annotated = field(default_factory=Annotated)
    count: int = 0


def has_repeats(root: Path) -> bool:
    """Whether names of folders say how often their images count; where there is metadata they do not."""
    if any((root / name).is_file() for name in (METADATA, "metadata.csv")):
        return False
    return any(re.fullmatch(_REPEATS, entry.name, flags=re.DOTALL) and entry.is_dir() for entry in root.iterdir())


def annotate_folder(
    items: Items, task: FolderTask, *, num_workers: int = 0, on_images: Callable[[int], Any] = lambda count: None
) -> Annotated:
    """Write what is not there yet, and the metadata last: until then the folder has no captions to train with.

    A picture is there when its file has the mark of this image and these settings. Raises OSError for what cannot be
    written, ValueError, WorkerDied.
    """
    _clean(task)
    total = Annotated()
    writers: dict[Path, BinaryIO] = {}
    jobs = (Job(task, chunk) for chunk in _chunks(items))
    with ExitStack() as stack:
        results = run_jobs(annotate_items, jobs, num_workers)
        for done in stack.enter_context(closing(cast("Generator[Done, None, None]", results))):
            for folder, row in done.rows:
                if folder not in writers:
                    writers[folder] = stack.enter_context(atomic_write(folder / METADATA))
                writers[folder].write(json_line(row))
            total.tally.merge(done.result.tally)
            total.kept += done.result.kept
            total.again += done.result.again
            on_images(done.count)
    total.folders = list(writers)
    return total


def _clean(task: FolderTask) -> None:
    """Remove the metadata of an earlier run, and what one that was killed had begun to write."""
    for folder, _, names in os.walk(task.output):
        for name in names:
            if name == METADATA and task.grouped and Path(folder) != task.output:
                Path(folder, name).write_bytes(b"")  # see _annotate
            elif name == METADATA or (name.startswith(".") and name.endswith(".tmp")):
                Path(folder, name).unlink()


def _chunks(items: Items) -> Iterator[tuple[tuple[str, Union[FolderItem, BadRecord]], ...]]:
    iterator = iter(items)
    while chunk := tuple(islice(iterator, _A_JOB)):
        yield chunk


def annotate_items(job: Job) -> Done:
    """Write the images and their pictures, each file whole or not at all."""
    done = Done(count=len(job.items))
    for where, item in job.items:
        made = item if isinstance(item, BadRecord) else _annotate(item, job.task, done.result)
        if isinstance(made, BadRecord):
            done.result.tally.add(made.reason, where, made.detail)
        else:
            done.result.tally.used += 1
            done.rows.append(made)
    return done


def _annotate(item: FolderItem, task: FolderTask, result: Annotated) -> Union[tuple[Path, Row], BadRecord]:
    if item.caption is None:
        return BadRecord(NO_CAPTION, str(item.image))
    image = read_image_file(item.image)
    if isinstance(image, BadRecord):
        return image
    opened = open_image(image)
    if isinstance(opened, BadRecord):
        return BadRecord(opened.reason, f"{item.image}: {opened.detail}")
    folder, name = task.places(item.image)
    if name.parts[0] == task.column:
        raise ValueError(f"{item.image}: pictures are written to a folder {task.column}; rename the one of the image")
    if task.grouped:  # without metadata, the folder's name would be the caption of images and of their pictures
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METADATA).touch()
    row: Row = {"file_name": name.as_posix(), task.caption_column: item.caption}
    had = isinstance(item.meta.get(task.column), Path) and not task.overwrite
    if had:
        _replace(folder / name, image)
    else:
        made = _picture(item, image, task, folder, name)
        if isinstance(made, BadRecord):
            return BadRecord(made.reason, f"{item.image}: {made.detail}")
        row[task.column], again = made
        result.again += again
    bad = _complete(row, item, task, folder)
    result.kept += had and bad is None
    return bad or (folder, row)


def _picture(
    item: FolderItem, image: bytes, task: FolderTask, folder: Path, name: Path
) -> Union[tuple[str, bool], BadRecord]:
    """Write the image and then its picture; the picture's name, and whether both were there."""
    points = points_of(task.settings, item.meta, Place(item.image, task.root))
    mark = fingerprint(task.settings, image, points)
    own = Path(task.column, name.with_name(f"{name.name}{name_of_points(points)}.png"))
    if mark_of(folder / own) == mark and _size(folder / name) == len(image):
        return own.as_posix(), True
    picture = maker_of(task.settings)(image, points, mark)
    if isinstance(picture, BadRecord):
        return picture
    _write(folder / name, image)
    _write(folder / own, picture)
    return own.as_posix(), False


def _complete(row: Row, item: FolderItem, task: FolderTask, folder: Path) -> Optional[BadRecord]:
    """Add captions, meta and the pictures that the item's own row names, which are copied; what is wrong with one."""
    if item.more_captions:
        row["captions"] = list(item.more_captions)
    for key, value in sorted(item.meta.items()):
        if key in row:
            continue
        if isinstance(value, Path):
            data = read_image_file(value)
            if isinstance(data, BadRecord):
                return BadRecord(f"{key}: {data.reason}", data.detail)
            path = task.output / task.name(value)
            _replace(path, data)
            row[key] = Path(os.path.relpath(path, folder)).as_posix()
        elif plain(value) is not None:
            row[key] = plain(value)
    return None


def _replace(path: Path, data: bytes) -> None:
    """Write a file unless it has these bytes already."""
    if _size(path) != len(data) or path.read_bytes() != data:
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(data)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
