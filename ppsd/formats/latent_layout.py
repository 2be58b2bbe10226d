"""The folder that cached latents are written to: a data set that mirrors another one, part for part.

OUT/latents/NAME/part-000001.safetensors, OUT/filelist/NAME.filelist.list, and the filelists in it beside it:
NAME.filelist, or NAME-SOURCE.filelist where there are several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppsd.formats.filelist import (
    FILELIST_SUFFIX,
    LIST_SUFFIX,
    Source,
    relative_entry,
    write_file_list,
    write_filelist,
)
from ppsd.formats.latents import SUFFIX


def distinct_parts(sources: Iterable[Source]) -> dict[str, int]:
    """The parts of all sources, each with its number: from 1 in the order in which they are first named."""
    numbers: dict[str, int] = {}
    for source in sources:
        for part in source.parts:
            numbers.setdefault(part, len(numbers) + 1)
    return numbers


@dataclass(frozen=True)
class LatentLayout:
    """Where the files of the data set `name` below `root` are."""

    root: Path
    name: str

    @property
    def parts_folder(self) -> Path:
        return self.root / "latents" / self.name

    @property
    def file_list(self) -> Path:
        return self.root / "filelist" / f"{self.name}{LIST_SUFFIX}"

    def part(self, number: int) -> Path:
        """Part files are numbered from 1."""
        return self.parts_folder / f"part-{number:06d}{SUFFIX}"

    def filelists(self, sources: Sequence[Source]) -> list[Path]:
        """One for each source; the names differ even where those of the sources do not."""
        names: list[str] = []
        for source in sources:
            own = re.sub(r"[^\w.-]+", "_", source.name)
            name = self.name if len(sources) == 1 else f"{self.name}-{own}"
            names.append(name if name not in names else f"{name}-{len(names) + 1}")
        return [self.file_list.with_name(f"{name}{FILELIST_SUFFIX}") for name in names]

    def prepare(self) -> None:
        """Make the folders. Raises OSError when that cannot be done."""
        for folder in (self.parts_folder, self.file_list.parent):
            folder.mkdir(parents=True, exist_ok=True)

    def remove_lists(self, sources: Sequence[Source]) -> None:
        """Before a part is replaced: no list shall name a mixture of old and new ones."""
        for path in (self.file_list, *self.filelists(sources)):
            path.unlink(missing_ok=True)

    def remove_temporaries(self, number: int) -> None:
        """Remove what a process that was killed had begun to write of a part."""
        for temporary in self.parts_folder.glob(f".{self.part(number).name}.*.tmp"):
            temporary.unlink(missing_ok=True)

    def write_lists(self, sources: Sequence[Source], numbers: Mapping[str, int]) -> None:
        """The lists of `sources` with the parts made from theirs: same order, repeats and weights; the list last."""
        filelists = self.filelists(sources)
        for source, path in zip(sources, filelists):
            write_filelist(path, [relative_entry(self.part(numbers[part]), path) for part in source.parts])
        weights = [source.weight for source in sources if source.weight is not None]
        entries = [relative_entry(path, self.file_list) for path in filelists]
        write_file_list(self.file_list, entries, weights or None)

    def unlisted_parts(self, count: int) -> list[Path]:
        """Part files in the folder that are not among the first `count`: those of an earlier run."""
        listed = {self.part(number) for number in range(1, count + 1)}
        return sorted(set(self.parts_folder.glob(f"part-*{SUFFIX}")) - listed)
