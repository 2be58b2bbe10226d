"""The folders of a run: whole checkpoints, how they get their names, and what a killed run leaves behind.

A folder `checkpoint-N` is whole when its COMPLETE file lists what is there; nothing else is ever continued. It is
written aside, in `.saving/`, and renamed. A folder to delete loses its name first.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Optional

from ppsd.formats.safetensors_file import Digest
from ppsd.trainers.manifest import fault, flush, seal

logger = logging.getLogger(__name__)

STAGING = ".saving"
PROMPTS, CONDITIONS = "previews/prompts.txt", "previews/conditions.npz"
"""Of a run's previews: what the first batch had, so that a continued run draws with it, too."""
_NAME = re.compile(r"^checkpoint-(\d+)$")
_DISCARDED = re.compile(r"^\.[\w-]+\.[0-9a-f]{8}\.old$")


def named_checkpoints(output_dir: Path) -> list[Path]:
    """Every folder with the name of a checkpoint, by step."""
    found = [path for path in output_dir.glob("checkpoint-*") if _NAME.match(path.name) and path.is_dir()]
    return sorted(found, key=global_step)


def find_checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints (by the names and sizes of their files), oldest first."""
    return [path for path in named_checkpoints(output_dir) if fault(path) is None]


def global_step(checkpoint: Path) -> int:
    """The optimizer step in the name of a checkpoint of `output_dir`; one that was moved may have any name."""
    return int(checkpoint.name.split("-")[1])


def prepare_output_dir(
    output_dir: str, models: Iterable[Optional[str]], clean: bool, images: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Make the folder and see that it can be written to; `clean` removes what a killed run left half-written.

    images: folders of images by flag. Raises ValueError if the export would replace one of the folders that `models`
    are read from, or if previews would be among the images.
    """
    folder = Path(output_dir)
    replaced = {(folder / name).resolve() for name in ("", "unet", "vae", "text_encoder", "tokenizer", "controlnet")}
    for model in models:
        if model is not None and Path(model).exists() and Path(model).resolve() in replaced:
            raise ValueError(f"--output_dir: the result in {folder} would replace {model}, which is read from there")
    for flag, data in images.items():
        if Path(data).resolve() in (folder.resolve(), *folder.resolve().parents):
            raise ValueError(
                f"--output_dir: {folder} lies in {data}, the folder of --{flag}, and its pictures would be trained on"
            )
    require_writable(folder, "--output_dir")
    if clean:
        clean_leftovers(folder)


def clean_leftovers(output_dir: Path) -> None:
    """Delete half-written checkpoints and half-deleted ones. For one process, before any saves."""
    for left in list(output_dir.iterdir()):
        if left.is_dir() and (left.name == STAGING or _DISCARDED.match(left.name)):
            logger.info("deleting %s, which a stopped run left behind", left)
            shutil.rmtree(left, ignore_errors=True)


def forget_run(output_dir: str, checkpoint: Optional[str]) -> None:
    """Delete an earlier run's checkpoints, but for the one being continued, so that none is continued by mistake."""
    for kept in (PROMPTS, CONDITIONS):
        Path(output_dir, kept).unlink(missing_ok=True)
    for old in named_checkpoints(Path(output_dir)):
        if checkpoint is None or old.resolve() != Path(checkpoint).resolve():
            logger.warning("--overwrite_output_dir: deleting %s", old)
            discard(old)


def discard(folder: Path) -> None:
    """Delete a folder. It loses its name first: one that is half-deleted is never found."""
    shutil.rmtree(set_aside(folder), ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Rename to what `clean_leftovers` deletes."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    os.replace(folder, aside)
    return aside


def take_place(new: Path, final: Path) -> None:
    """Rename `new`; a folder that has the name `final` is deleted afterwards, and has it again if that fails."""
    old = set_aside(final) if final.is_dir() else None
    try:
        os.replace(new, final)
    except OSError:
        if old is not None:
            os.replace(old, final)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def require_writable(folder: Path, flag: str) -> None:
    """Make the folder and see that a file can be made in it. ValueError naming `flag` if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{flag}: cannot write to {folder}: {error.strerror}") from error


@contextmanager
def staged(output_dir: Path, name: str) -> Iterator[Path]:
    """An empty folder in `.saving/` to fill and publish; what is left of it is deleted when the block ends."""
    folder = output_dir / STAGING / f"{name}.{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process may still be writing there
            folder.parent.rmdir()


def publish(staging: Path, final: Path, step: int, known: Mapping[Path, Digest]) -> None:
    """Seal a staged checkpoint and give it its name, in place of what has it.

    Whatever moment the process is killed at: under that name is a whole checkpoint, or nothing.
    """
    seal(staging, step, known)
    take_place(staging, final)
    flush(final.parent)


def rotate(output_dir: Path, newest: int, limit: Optional[int]) -> None:
    """Of the whole checkpoints up to step `newest` only the `limit` last stay; None or below 1: all."""
    found = [path for path in find_checkpoints(output_dir) if global_step(path) <= newest]
    for old in found[:-limit] if limit and limit > 0 else []:
        with suppress(FileNotFoundError):  # another node on the same disk was faster
            discard(old)
