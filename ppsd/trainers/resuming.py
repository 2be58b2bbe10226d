"""Which checkpoint a run continues, and whether it can."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

from ppsd.trainers.checkpoint import find_checkpoints, global_step, named_checkpoints
from ppsd.trainers.manifest import checksum_fault, fault, read_manifest
from ppsd.trainers.run_state import read_state

logger = logging.getLogger(__name__)


def choose_checkpoint(output_dir: str, asked: Optional[str], overwrite: bool) -> Optional[str]:
    """The checkpoint to continue from, or None: the newest whole one of `output_dir`, or the one asked for.

    A run that was begun from a path goes on with what it has saved since, as the same command does everywhere else.
    All of the one chosen is read once, to compare checksums. Raises ValueError where what is asked for is not there,
    or where there are checkpoints and none can be continued.
    """
    folder = Path(output_dir)
    if asked is not None and asked not in ("latest", "none"):
        begun = None if overwrite else newest_undamaged(folder, lambda checkpoint: is_begun_from(asked, checkpoint))[0]
        return begun or asked_for(asked, folder, overwrite)
    if overwrite:
        return None
    if asked == "none":
        whole = find_checkpoints(folder)
        if whole:
            raise ValueError(
                f"--resume_from_checkpoint none: {output_dir} has {whole[-1].name}, which a later run would continue; "
                "use another --output_dir, or --overwrite_output_dir to delete it"
            )
        return None
    newest, faults = newest_undamaged(folder)
    if newest is None and faults:
        raise ValueError(
            f"--output_dir: {output_dir} has no checkpoint that can be continued ({'; '.join(faults)}); move these"
            " folders away, or add --overwrite_output_dir, which deletes them, to start over"
        )
    if asked == "latest" and newest is None:
        raise ValueError(f"--resume_from_checkpoint latest: {output_dir} has no whole checkpoint")
    return newest


def newest_undamaged(
    output_dir: Path, wanted: Callable[[Path], bool] = lambda checkpoint: True
) -> tuple[Optional[str], list[str]]:
    """Of those that are wanted, and what is wrong with those passed over, newest first. Warns of them.

    wanted: asked only of what is whole by the sizes of its files; may raise ValueError.
    """
    faults: list[str] = []
    for checkpoint in reversed(named_checkpoints(output_dir)):
        found = fault(checkpoint)
        try:
            if found is None and not wanted(checkpoint):
                continue
        except ValueError as error:
            found = str(error)
        found = found or checksum_fault(checkpoint)
        if found is None:
            return str(checkpoint), faults
        logger.warning("%s is passed over: %s", checkpoint, found)
        faults.append(f"{checkpoint.name}: {found}")
    return None, faults


def is_begun_from(path: str, checkpoint: Path) -> bool:
    """Whether the run that saved `checkpoint` was told to continue `path`."""
    told = read_state(checkpoint)["flags"].get("resume_from_checkpoint")
    return told is not None and Path(told) == Path(path)


def asked_for(path: str, output_dir: Path, overwrite: bool) -> str:
    """`path`, which must be whole. Warns of checkpoints in `output_dir` that would be continued later in its place."""
    found = checksum_fault(Path(path)) if Path(path).is_dir() else "there is no such folder"
    if found is not None:
        raise ValueError(f"--resume_from_checkpoint: {path} is not a whole checkpoint: {found}")
    step = read_manifest(Path(path)).step
    newer = [] if overwrite else [other.name for other in find_checkpoints(output_dir) if global_step(other) > step]
    if newer:
        logger.warning(
            "%s keeps %s of another run: without --resume_from_checkpoint the newest is continued",
            output_dir,
            ", ".join(newer),
        )
    return path


def continuing_command(asked: Optional[str], overwrite: bool) -> str:
    """What goes on with a run that was stopped."""
    if overwrite:
        return "the same command without --overwrite_output_dir"
    return "the same command" + (" without --resume_from_checkpoint none" if asked == "none" else "")


def check_same_disk(newest: Sequence[int], output_dir: str, saved_by_each: bool) -> None:
    """Raise ValueError where the first process does not see what another one has saved. newest: steps, by rank.

    saved_by_each: every machine has saved for itself; then the first one may only not be without any.
    """
    step = max(newest)
    if step > newest[0] and not (saved_by_each and newest[0] >= 0):
        raise ValueError(
            f"--output_dir: {output_dir} holds checkpoint-{step} on the machine of rank {newest.index(step)}, but not"
            " on that of rank 0, which reads for all: copy it there, or have that machine be the first"
        )


def newest_step(output_dir: str) -> int:
    """Of the whole checkpoints that this machine sees; -1 if there is none."""
    return max(map(global_step, find_checkpoints(Path(output_dir))), default=-1)


PARTS = {
    "adapter": "--network_module",
    "controlnet": "",
    "unet": "",
    "text_encoder": "--train_text_encoder",
    "embeddings": "--placeholder_token",
}
"""Layers that a run can train, by the names of their folders in a checkpoint, and the flags that say so.

The adapter is first: where it is what differs, so does what is trained of the others.
"""


def check_parts(checkpoint: Path, trained: set[str], use_ema: bool) -> None:
    """Raise ValueError naming the flag where a checkpoint lacks what this run trains, or holds what it would lose."""
    names = read_manifest(checkpoint).files
    if use_ema and not any(".ema." in name for name in names):
        raise ValueError(f"--use_ema: {checkpoint} was saved without EMA; leave --use_ema out or start over")
    held = {name.split("/")[0] for name in names if "/" in name}
    pipeline = "model_index.json" in names  # of --only_save_updated_model False, which holds the frozen parts, too
    for part, flag in PARTS.items():
        decoder = part == "unet" and "controlnet" in held & trained
        where = "--sd_locked False" if decoder else flag or f"another method ({part})"
        if part in trained and part not in held:
            raise ValueError(f"{where}: {checkpoint} was saved without training it; leave the flag out or start over")
        if part in held and part not in trained and not pipeline:
            what = part.replace("_", " ").removesuffix("s")
            raise ValueError(f"{where}: {checkpoint} holds a trained {what}; add the flag or start over")
