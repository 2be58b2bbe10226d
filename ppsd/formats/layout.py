"""The folder that data preparation writes and pretraining reads.

OUT/FORMAT_format_data/part-000001[.gz], OUT/filelist/NAME.filelist and OUT/filelist/NAME.filelist.list.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppsd.formats.filelist import (
    FILELIST_SUFFIX,
    LIST_SUFFIX,
    read_filelist,
    relative_entry,
    write_file_list,
    write_filelist,
)


@dataclass(frozen=True)
class Layout:
    """Where the files of the data set `name` below `root` are. `suffix` ends the names of its parts."""

    root: Path
    name: str
    data_format: str = "laion400m"
    suffix: str = ""

    @property
    def parts_folder(self) -> Path:
        return self.root / f"{self.data_format}_format_data"

    @property
    def filelist(self) -> Path:
        return self.root / "filelist" / f"{self.name}{FILELIST_SUFFIX}"

    @property
    def file_list(self) -> Path:
        return self.root / "filelist" / f"{self.name}{LIST_SUFFIX}"

    def part(self, number: int, gzip: bool) -> Path:
        """Part files are numbered from 1."""
        return self.parts_folder / f"part-{number:06d}{self.suffix}{'.gz' if gzip else ''}"

    def staged(self, job: int, number: int) -> Path:
        """Where a part is written before it is known which part it is."""
        return self.parts_folder / f".part-{job:06d}-{number:06d}.tmp"

    def prepare(self) -> None:
        """Make the folders and remove the temporary files of a run that was killed.

        Raises OSError when that cannot be done, ValueError when another data set has its parts in the same folder: they
        would be overwritten under its list.
        """
        for folder in (self.parts_folder, self.filelist.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for other in sorted(self.filelist.parent.glob(f"*{FILELIST_SUFFIX}")):
            if other != self.filelist and self._names_parts_here(other):
                raise ValueError(
                    f"{other} names parts in {self.parts_folder}, which would be overwritten;"
                    f" choose another output folder for {self.name!r}, or remove that list"
                )
        self.remove_temporaries()

    def remove_temporaries(self) -> None:
        """Remove what a process that was killed had begun to write."""
        for temporary in [*self.parts_folder.glob(".part-*.tmp"), *self.parts_folder.glob("..part-*.tmp")]:
            remove_part(temporary)

    def _names_parts_here(self, filelist: Path) -> bool:
        if filelist.stat().st_size == 0:
            return False
        folders = {os.path.dirname(part) for part in read_filelist(filelist)}
        return os.path.realpath(self.parts_folder) in {os.path.realpath(folder) for folder in folders}

    def write_lists(self, parts: Sequence[Path], num_repeat: int = 1) -> None:
        """Write the lists of a data set whose parts are all there, the list of lists last."""
        entries = [relative_entry(part, self.filelist) for part in parts]
        write_filelist(self.filelist, entries * num_repeat)
        write_file_list(self.file_list, [relative_entry(self.filelist, self.file_list)])

    def unlisted_parts(self, parts: Sequence[Path]) -> list[Path]:
        """Part files in the folder that are not among `parts`: those of an earlier run."""
        pattern = rf"part-\d{{6,}}{re.escape(self.suffix)}(\.gz)?"
        there = [path for path in self.parts_folder.iterdir() if re.fullmatch(pattern, path.name)]
        return sorted(set(there) - set(parts))


def remove_part(path: Path) -> None:
    """Remove a part, be it a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_name(name: str) -> None:
    """Raises ValueError for a data set name that cannot be a file name."""
    if name in ("", ".", "..") or re.search(r"[/\\\0\s]", name):
        raise ValueError(f"name {name!r}: expected a name for files, without slashes and blanks")
