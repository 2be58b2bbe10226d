"""The parts that a filelist names, however many: lines are read when they are asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Callable, Union, overload

from ppsd.formats.list_index import GROUP, NotAPath, index_list, path_text
from ppsd.formats.opening import open_input
from ppsd.formats.urls import is_url

Resolve = Callable[[str], str]


class PartList(Sequence[str]):
    """The entries of the list `path`, each made a path by `resolve` when it is read.

    Costs 12 bytes for each GROUP of entries and one open file, which forked processes share safely; nothing is known
    of the parts themselves. Equal to any sequence of the same paths. Raises ValueError for a line that cannot be a
    path, and, when it is read, for an entry that has changed since.
    """

    def __init__(self, path: str, resolve: Resolve) -> None:
        self._path, self._resolve = path, resolve
        file = _local_file(path)
        try:
            self._index = index_list(file)
        except NotAPath as error:
            file.close()
            raise not_a_path(path, error.args[0]) from None
        self._file = file
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return self._index.count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[str, tuple[str, ...]]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"part {index} of {len(self)}")
        group, within = divmod(number, GROUP)
        text = path_text(self._group(group)[within])
        assert text, "the check of the group says that these are its bytes"
        return self._resolve(text)

    def __iter__(self) -> Iterator[str]:
        for group in range(len(self._index.checks)):
            yield from (self._resolve(text) for line in self._group(group) if (text := path_text(line)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PartList({self._path!r}: {len(self)} parts)"

    def __reduce__(self) -> tuple[Any, ...]:
        return PartList, (self._path, self._resolve)

    def names_digest(self) -> str:
        """What ppsd.formats.list_index.names_digest gives for these parts, at no cost."""
        return self._index.names

    def _group(self, group: int) -> list[bytes]:
        """The lines of up to GROUP entries, perhaps with an empty one at the end."""
        begin, end = self._index.offsets[group : group + 2].tolist()
        data = os.pread(self._file.fileno(), end - begin, begin)
        data = data if data.endswith(b"\n") else data + b"\n"
        if zlib.crc32(data) != self._index.checks[group]:
            raise ValueError(f"{self._path}: changed while it was in use; start again to use the new list")
        lines = data.split(b"\n")
        entries = min(GROUP, len(self) - group * GROUP)
        return lines if len(lines) == entries + 1 else [line for line in lines if path_text(line)]


def not_a_path(path: str, line_no: int) -> ValueError:
    return ValueError(f"{path}:{line_no}: not a path (is this a part file?); expected one path a line")


def _local_file(path: str) -> BinaryIO:
    """The list, or a nameless copy of it when it is at a URL; at its start."""
    if not is_url(path):
        return open(path, "rb", buffering=0)
    copy = tempfile.TemporaryFile(prefix="ppsd-filelist-")  # noqa: SIM115  the caller's to close
    with open_input(path, keep=False) as file:  # lists are edited
        shutil.copyfileobj(file, copy, 2**20)
    copy.flush()
    copy.seek(0)
    return copy
