"""The results of an inspection on disk, one line a part: whoever is killed goes on where he was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Optional

from ppsd.data.inspection.result import PartResult
from ppsd.data.source import RecordSource
from ppsd.formats.atomic import naming
from ppsd.formats.stamp import part_stamp

VERSION = 1


class Journal:
    """Results that are appended to the file `path` and read from it again.

    facts: what the results depend on; they are in the first line. A last line that a killed process began is removed.
    Raises ValueError for a file that is no journal, or one of other facts.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"inspection": VERSION, **facts}, ensure_ascii=False)
        self._file = _open_to_append(path)
        try:
            self._check(head)
        except BaseException:
            self._file.close()
            raise

    def _check(self, head: str) -> None:
        with open(self._path, "rb") as file:
            line = file.readline(2**20)
        if not line:
            self._append(head)
        elif line.rstrip(b"\n") != head.encode():
            raise ValueError(
                f"{self._path}: not the state of this inspection: {_difference(line, head)};"
                " remove the file, or name another one with --state"
            )

    def results(self, sources: Sequence[RecordSource]) -> Iterator[PartResult]:
        """The results so far, without those of parts that have changed since or have another place in the lists."""
        with open(self._path, "rb") as file:
            file.readline()
            for number, line in enumerate(file, 2):
                try:
                    result = PartResult.from_json(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{self._path}:{number}: damaged ({error}); remove the file") from error
                if result.path == _path(sources, result) and result.stamp == part_stamp(result.path):
                    yield result

    def add(self, result: PartResult) -> None:
        self._append(json.dumps(result.to_json(), ensure_ascii=False))

    def close(self) -> None:
        with naming(self._path):
            self._file.close()

    def _append(self, text: str) -> None:
        with naming(self._path):
            self._file.write(text.encode("utf-8", "surrogatepass") + b"\n")
            self._file.flush()


def _path(sources: Sequence[RecordSource], result: PartResult) -> Optional[str]:
    """The part that now has the place of the one that the result is of."""
    parts = sources[result.source].parts if result.source < len(sources) else ()
    return parts[result.part] if result.part < len(parts) else None


def _open_to_append(path: Path) -> BinaryIO:
    """The file, cut after its last whole line."""
    file = open(path, "ab+")  # noqa: SIM115  closed by the journal
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - 2**20)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    file.truncate(end)
    return file


def _difference(line: bytes, head: str) -> str:
    """Which facts differ."""
    try:
        there, here = json.loads(line), json.loads(head)
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    except (ValueError, AttributeError):
        return "its first line is not one"
    return ", ".join(f"{key} was {there.get(key)!r} and is {here.get(key)!r}" for key in keys[:4])
