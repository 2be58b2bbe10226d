"""A pipeline's folder with other weights: all else is copied, and it appears whole or not at all.

Not copied are folders that the pipeline's index does not name: checkpoints, logs and previews of the run that wrote it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ppsd.formats.atomic import naming
from ppsd.models.saving import read_config


@contextmanager
def publishing(folder: Path, target: Path, skip: Collection[Path]) -> Iterator[Path]:
    """A folder to write into, beside `target`, with the files of `folder` but those of `skip`; it becomes `target` when
    the block ends without an error. Raises ValueError where `target` is in use, or in `folder`."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not empty; name a new folder")
    if folder.resolve() in target.resolve().parents:
        raise ValueError(f"{target} is within {folder}; name a folder outside of it")
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        _copy(folder, staging, skip)
        yield staging
        if target.exists():
            target.rmdir()
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy(folder: Path, to: Path, skip: Collection[Path]) -> None:
    """Links are followed: the new folder depends on nothing else."""
    others = _no_components(folder)
    for place, folders, files in os.walk(folder, followlinks=True):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in others]
        new = to / Path(place).relative_to(folder)
        new.mkdir(parents=True)
        for file in sorted(Path(place, name) for name in files):
            if file not in skip:
                with naming(file):
                    shutil.copyfile(file, new / file.name)


def _no_components(folder: Path) -> set[str]:
    """Names of folders that are no part of the pipeline; empty where no index says what is."""
    file = folder / "model_index.json"
    if not file.is_file():
        return set()
    return {other.name for other in folder.iterdir() if other.is_dir()} - set(read_config(file))
