"""File lists: NAME.filelist names parts, NAME.filelist.list names filelists, each with an optional weight."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ppsd.formats.atomic import PathLike, atomic_write
from ppsd.formats.lines import read_line

FILELIST_SUFFIX = ".filelist"
LIST_SUFFIX = ".filelist.list"
MAX_PATH_BYTES = 2**16


@dataclass(frozen=True)
class Source:
    """The parts of one filelist, in its order and with its repeats. weight is None when the list gives none."""

    name: str
    parts: tuple[str, ...]
    weight: Optional[float] = None
    dialect: str = "auto"


def read_file_list(path: PathLike, dialect: str = "auto") -> list[Source]:
    """The sources of a list of filelists; a NAME.filelist is one source by itself.

    A part that is not there is no error here: whoever reads it counts it. Raises FileNotFoundError for a list or a
    filelist that is not there, ValueError for one that is empty or no list, and for weights that are not all given,
    not finite and >= 0, or all zero.
    """
    path = Path(path)
    if path.name.endswith(FILELIST_SUFFIX):
        return [Source(_source_name(path), read_filelist(path), None, dialect)]
    entries = [_list_entry(text, where, path) for where, text in _entries(path, "filelist")]
    _check_weights(path, entries)
    return [Source(_source_name(entry), read_filelist(entry), weight, dialect) for _, entry, weight in entries]


def read_filelist(path: PathLike) -> tuple[str, ...]:
    """The paths of the parts a filelist names, as they can be opened from here. Errors as in read_file_list."""
    path, found = Path(path), dict[str, str]()
    parts = []
    for _, text in _entries(path, "part"):
        if text not in found:
            found[text] = _resolve(text, path) or text
        parts.append(found[text])
    return tuple(parts)


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


def _source_name(path: Path) -> str:
    return path.name[: -len(FILELIST_SUFFIX)] if path.name.endswith(FILELIST_SUFFIX) else path.name


def _entries(path: Path, what: str) -> list[tuple[str, str]]:
    """The lines of a list that are not blank, each with its `file:line`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: file list not found; tools/create_pretraining_data.py writes one")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; expected the path of a {LIST_SUFFIX} or {FILELIST_SUFFIX} file")
    entries = list(_text_lines(path))
    if not entries:
        raise ValueError(f"{path}: the file list is empty; expected the path of one {what} a line")
    return entries


def _text_lines(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        line_no = 0
        while (line := read_line(file, MAX_PATH_BYTES)) != b"":
            line_no += 1
            text = _path_text(line)
            if text is None:
                raise ValueError(f"{path}:{line_no}: not a path (is this a part file?); expected one path a line")
            if text:
                yield f"{path}:{line_no}", text


def _path_text(line: bytes | None) -> str | None:
    """The path on a line, "" for a blank line, None where the line (None: a very long one) cannot be a path."""
    try:
        text = None if line is None else line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    return None if text is None or "\t" in text or "\0" in text else text


def _resolve(text: str, list_path: Path) -> str | None:
    """The file that an entry names, None if there is none.

    Relative paths are looked up from the working directory, then from the folder of the list. One that starts with
    `..` is looked up from the folder of the list first: a data folder then finds its own parts wherever it is.
    """
    beside = os.path.normpath(list_path.parent / text)
    candidates = [beside, text] if Path(text).parts[:1] == (os.pardir,) else [text, beside]
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def _list_entry(text: str, where: str, list_path: Path) -> tuple[str, Path, float | None]:
    """One line of a list of filelists: (file:line, filelist, weight)."""
    head, _, tail = text.rpartition(" ")
    weighted = _resolve(head.rstrip(), list_path) if head else None
    if weighted is not None and _is_number(tail):
        return where, Path(weighted), float(tail)
    whole = _resolve(text, list_path)
    if whole is not None:
        return where, Path(whole), None
    if weighted is not None:
        raise ValueError(f"{where}: weight {tail!r}: expected a finite number >= 0")
    name = head.rstrip() if head and _is_number(tail) else text
    looked = f"looked in {os.getcwd()} and in {os.path.abspath(list_path.parent)}"
    raise FileNotFoundError(f"{where}: filelist {name!r} not found ({looked})")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


def _check_weights(path: Path, entries: Sequence[tuple[str, Path, float | None]]) -> None:
    bare = [where for where, _, weight in entries if weight is None]
    if bare and len(bare) < len(entries):
        raise ValueError(f"{bare[0]}: no weight here, but other lines of the list have one; give all a weight or none")
    if not bare and not any(weight for _, _, weight in entries):
        raise ValueError(f"{path}: all weights are 0; at least one must be above 0")
