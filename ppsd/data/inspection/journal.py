"""The results of an inspection on disk, one line a part: whoever is killed goes on where he was."""

from __future__ import annotations

import fcntl
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
SHOWN = 80


class Journal:
    """Results that are appended to the file `path` and read from it again.

    facts: what the results depend on; they are in the first line. A last line that a killed process began is removed.
    Raises ValueError for a file that is no journal, or one of other facts; with `replace` one of other facts that no
    process is using is begun anew. replaced: how its facts differed, "" if nothing was replaced.
    """

    def __init__(self, path: Path, facts: dict[str, Any], replace: bool = False) -> None:
        self._path, self.replaced = path, ""
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"inspection": VERSION, **facts}, ensure_ascii=False)
        self._file = _open_to_append(path)
        try:
            self._check(head, replace)
        except BaseException:
            self._file.close()
            raise

    def _check(self, head: str, replace: bool) -> None:
        alone = _lock(self._file)  # of whoever has not got it only the file of other facts is refused
        with open(self._path, "rb") as file:
            line = file.readline(2**20)
        if not line:
            self._append(head)
        elif line.rstrip(b"\n") != head.encode():
            difference = _difference(line, head)
            if not (replace and alone and difference):
                why = difference or "its first line is not one"
                used = "" if alone else " and another process is using it"
                raise ValueError(
                    f"{self._path}: not the state of this inspection: {why}{used};"
                    " remove the file, or name another one with --state"
                )
            self._file.truncate(0)
            self._append(head)
            self.replaced = difference

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


def _lock(file: BinaryIO) -> bool:
    """Take the file for this process until it is closed; False when another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _difference(line: bytes, head: str) -> str:
    """Which facts differ; "" for a line that is not the first one of a journal."""
    try:
        there, here = _flat(json.loads(line)), _flat(json.loads(head))
    except (ValueError, AttributeError):
        return ""
    if "inspection" not in there:
        return ""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return ", ".join(f"{key} was {_short(there.get(key))} and is {_short(here.get(key))}" for key in keys[:4])


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """With the facts of dictionaries among them in the place of these."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat.update(value if isinstance(value, dict) else {key: value})
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
