"""Which checkpoint a run continues, and whether it can."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Optional

from ppsd.trainers.checkpoint import find_checkpoints, named_checkpoints
from ppsd.trainers.manifest import checksum_fault, fault, file_list

logger = logging.getLogger(__name__)


def choose_checkpoint(output_dir: str, asked: Optional[str], overwrite: bool) -> Optional[str]:
    """The checkpoint to continue from: the one asked for, else the newest whole one of `output_dir`, else None.

    All of it is read once, to compare checksums; a damaged one is passed over with a warning, unless it was asked for
    by its path. Raises ValueError where what is asked for is not there, or where every checkpoint is damaged.
    """
    if asked is not None and asked not in ("latest", "none"):
        found = checksum_fault(Path(asked)) if Path(asked).is_dir() else "there is no such folder"
        if found is not None:
            raise ValueError(f"--resume_from_checkpoint: {asked} is not a whole checkpoint: {found}")
        return asked
    if overwrite:
        return None
    folder = Path(output_dir)
    if asked == "none":
        whole = find_checkpoints(folder)
        if whole:
            raise ValueError(
                f"--resume_from_checkpoint none: {output_dir} has {whole[-1].name}, which a later run would continue; "
                "use another --output_dir, or --overwrite_output_dir to delete it"
            )
        return None
    newest = newest_undamaged(folder)
    if asked == "latest" and newest is None:
        raise ValueError(f"--resume_from_checkpoint latest: {output_dir} has no whole checkpoint")
    return newest


def newest_undamaged(output_dir: Path) -> Optional[str]:
    """Warns of those passed over. Raises ValueError where there were whole checkpoints and all are damaged now."""
    damaged = []
    for checkpoint in reversed(named_checkpoints(output_dir)):
        found = fault(checkpoint)
        if found is not None:
            logger.warning("%s is passed over: %s", checkpoint, found)
            continue
        found = checksum_fault(checkpoint)
        if found is None:
            return str(checkpoint)
        logger.warning("%s is passed over: %s", checkpoint, found)
        damaged.append(checkpoint.name)
    if damaged:
        raise ValueError(
            f"--output_dir: {output_dir} has no undamaged checkpoint ({', '.join(damaged)} cannot be used);"
            " --overwrite_output_dir deletes them and starts over"
        )
    return None


def check_parts(checkpoint: Path, train_text_encoder: bool, use_ema: bool) -> None:
    """Raise ValueError naming the flag where a checkpoint lacks what this run trains, or holds what it would lose."""
    names = file_list(checkpoint)
    if use_ema and not any(".ema." in name for name in names):
        raise ValueError(f"--use_ema: {checkpoint} was saved without EMA; leave --use_ema out or start over")
    holds_text = any(name.startswith("text_encoder/") for name in names)
    pipeline = "model_index.json" in names  # of --only_save_updated_model False, which holds the frozen parts, too
    if train_text_encoder and not holds_text:
        raise ValueError(
            f"--train_text_encoder: {checkpoint} was saved without training it; leave the flag out or start over"
        )
    if holds_text and not train_text_encoder and not pipeline:
        raise ValueError(f"--train_text_encoder: {checkpoint} holds a trained text encoder; add the flag or start over")
