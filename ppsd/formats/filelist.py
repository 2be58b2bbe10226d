"""File lists: NAME.filelist names parts, NAME.filelist.list names filelists, each with an optional weight."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Optional

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.lines import read_line
from ppsd.formats.list_index import MAX_PATH_BYTES, path_text
from ppsd.formats.opening import open_input
from ppsd.formats.part_list import PartList, not_a_path
from ppsd.formats.urls import beside_url, is_url, last_name

FILELIST_SUFFIX = ".filelist"
LIST_SUFFIX = ".filelist.list"


@dataclass(frozen=True)
class Source:
    """The parts of one filelist, in its order and with its repeats. weight is None when the list gives none."""

    name: str
    parts: Sequence[str]
    weight: Optional[float] = None
    dialect: str = "auto"


def read_file_list(path: PathLike, dialect: str = "auto") -> list[Source]:
    """The sources of a list of filelists; a NAME.filelist is one source by itself. Lists may be at URLs.

    A part that is not there is no error here: whoever reads it counts it. Raises FileNotFoundError for a list or a
    filelist that is not there, OSError for one at a URL that cannot be read, ValueError for one that is empty or no
    list, and for weights that are not all given, not finite and >= 0, or all zero.
    """
    path = os.fspath(path)
    if path.endswith(FILELIST_SUFFIX):
        return [Source(_source_name(path), read_filelist(path), None, dialect)]
    entries = [_list_entry(text, where, path) for where, text in _entries(path)]
    _check_weights(path, entries)
    return [Source(_source_name(entry), read_filelist(entry), weight, dialect) for _, entry, weight in entries]


def read_filelist(path: PathLike) -> PartList:
    """The paths of the parts a filelist names, as they can be opened from here. Errors as in read_file_list.

    Every line is checked here; parts are looked for when they are taken from the list, not before.
    """
    path = os.fspath(path)
    _check_list(path)
    try:
        parts = PartList(path, partial(_part_path, path))
    except FileNotFoundError:
        raise _not_there(path) from None
    if not parts:
        raise ValueError(f"{path}: the file list is empty; expected the path of one part a line")
    return parts


def write_filelist(path: PathLike, entries: Sequence[str]) -> None:
    """Write a filelist of part paths, whole or not at all. Entries are written as they are (see relative_entry)."""
    _write(Path(path), list(entries))


def write_file_list(path: PathLike, entries: Sequence[str], weights: Sequence[float] | None = None) -> None:
    """Write a list of filelists, whole or not at all, each with its weight when weights are given."""
    assert weights is None or len(weights) == len(entries)
    _write(Path(path), [f"{entry} {weights[i]!r}" if weights else entry for i, entry in enumerate(entries)])


def relative_entry(target: PathLike, list_path: PathLike) -> str:
    """How a list names `target` so that both can be moved together: from the list's folder, starting with `..`."""
    folder = Path(os.path.abspath(list_path)).parent
    return Path(os.pardir, os.path.relpath(os.path.abspath(target), folder.parent)).as_posix()


def _write(path: Path, rows: list[str]) -> None:
    for row in rows:
        if not row.strip() or "\n" in row or "\r" in row:
            raise ValueError(f"{path}: {row!r} cannot be a line of a file list; rename the file")
    with atomic_write(path) as file:
        file.write("".join(f"{row}\n" for row in rows).encode())


def _source_name(path: str) -> str:
    name = last_name(path)
    return name[: -len(FILELIST_SUFFIX)] if name.endswith(FILELIST_SUFFIX) else name


def _check_list(path: str) -> None:
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder; expected the path of a {LIST_SUFFIX} or {FILELIST_SUFFIX} file")


def _not_there(path: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{path}: file list not found; tools/create_pretraining_data.py writes one (training reads a folder of images"
        " with --train_data_dir)"
    )


def _entries(path: str) -> list[tuple[str, str]]:
    """The lines of a list of filelists that are not blank, each with its `file:line`."""
    _check_list(path)
    try:
        entries = list(_text_lines(path))
    except FileNotFoundError:
        raise _not_there(path) from None
    if not entries:
        raise ValueError(f"{path}: the file list is empty; expected the path of one filelist a line")
    return entries


def _text_lines(path: str) -> Iterator[tuple[str, str]]:
    with open_input(path, keep=False) as file:  # lists are edited
        line_no = 0
        while (line := read_line(file, MAX_PATH_BYTES)) != b"":
            line_no += 1
            text = path_text(line)
            if text is None:
                raise not_a_path(path, line_no)
            if text:
                yield f"{path}:{line_no}", text


def _resolve(text: str, list_path: str, exists: Callable[[str], bool]) -> str | None:
    """The file that an entry names, None if there is none. A URL is not looked up.

    Relative paths are looked up from the working directory, then from the folder of the list. One that starts with
    `..` is looked up from the folder of the list first: a data folder then finds its own parts wherever it is.
    In a list at a URL they are relative to that.
    """
    if is_url(text):
        return text
    if is_url(list_path) and not os.path.isabs(text):
        return beside_url(list_path, text)
    return next((candidate for candidate in _candidates(text, list_path) if exists(candidate)), None)


def _candidates(text: str, list_path: str) -> list[str]:
    """Where to look for a relative path of a list on a disk, the first place first."""
    beside = os.path.normpath(os.path.join(os.path.dirname(list_path), text))
    return [beside, text] if text == os.pardir or text.startswith("../") else [text, beside]


def _part_path(list_path: str, text: str) -> str:
    """Where a part is, or is looked for first; a folder of images is one, too."""
    if os.path.isabs(text):
        return text
    return _resolve(text, list_path, os.path.exists) or _candidates(text, list_path)[0]


def _list_entry(text: str, where: str, list_path: str) -> tuple[str, str, float | None]:
    """One line of a list of filelists: (file:line, filelist, weight)."""
    head, _, tail = text.rpartition(" ")
    weighted = _resolve(head.rstrip(), list_path, os.path.isfile) if head else None
    if weighted is not None and _is_number(tail):
        return where, weighted, float(tail)
    whole = _resolve(text, list_path, os.path.isfile)
    weight_in_url = whole is not None and is_url(whole) and head.rstrip().endswith(FILELIST_SUFFIX)
    if whole is not None and not weight_in_url:
        return where, whole, None
    if weighted is not None:
        raise ValueError(f"{where}: weight {tail!r}: expected a finite number >= 0")
    name = head.rstrip() if head and _is_number(tail) else text
    looked = f"looked in {os.getcwd()} and in {os.path.abspath(os.path.dirname(list_path))}"
    raise FileNotFoundError(f"{where}: filelist {name!r} not found ({looked})")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


def _check_weights(path: str, entries: Sequence[tuple[str, str, float | None]]) -> None:
    bare = [where for where, _, weight in entries if weight is None]
    if bare and len(bare) < len(entries):
        raise ValueError(f"{bare[0]}: no weight here, but other lines of the list have one; give all a weight or none")
    if not bare and not any(weight for _, _, weight in entries):
        raise ValueError(f"{path}: all weights are 0; at least one must be above 0")
