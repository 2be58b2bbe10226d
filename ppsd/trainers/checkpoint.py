"""Checkpoints (to continue) and the export (to use). A checkpoint appears under its name only when it is whole."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

import paddle

from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.models.loading import read_metadata
from ppsd.models.saving import load_weights, read_weights, save_component, weights_file
from ppsd.sampling.pipeline import build_pipeline

logger = logging.getLogger(__name__)

STAGING = ".saving"
POSITION = "data_position.json"
PROMPTS = "previews/prompts.txt"
_NAME = re.compile(r"^checkpoint-(\d+)$")


def find_checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if _NAME.match(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: global_step(path))


def global_step(checkpoint: Path) -> int:
    """The optimizer step a checkpoint was taken at, as its trainer_state.json says."""
    match = _NAME.match(checkpoint.name)
    if match:
        return int(match.group(1))
    file = checkpoint / "trainer_state.json"
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--resume_from_checkpoint: {checkpoint} is not a checkpoint: cannot read {file}") from error


def prepare_output_dir(output_dir: str, models: Iterable[Optional[str]], clean: bool) -> None:
    """Make the folder and see that it can be written to; `clean` removes what a killed run left half-written.

    Raises ValueError if the export would replace one of the folders that `models` are read from.
    """
    folder = Path(output_dir)
    replaced = {(folder / name).resolve() for name in ("", "unet", "vae", "text_encoder", "tokenizer")}
    for model in models:
        if model is not None and Path(model).exists() and Path(model).resolve() in replaced:
            raise ValueError(f"--output_dir: the result in {folder} would replace {model}, which is read from there")
    require_writable(folder, "--output_dir")
    if clean:
        shutil.rmtree(folder / STAGING, ignore_errors=True)


def forget_run(output_dir: str, checkpoint: Optional[str]) -> None:
    """Delete an earlier run's checkpoints, but for the one being continued, so that none is continued by mistake."""
    Path(output_dir, PROMPTS).unlink(missing_ok=True)
    for old in find_checkpoints(Path(output_dir)):
        if checkpoint is None or old.resolve() != Path(checkpoint).resolve():
            logger.warning("--overwrite_output_dir: deleting %s", old)
            discard(old)


def discard(folder: Path) -> None:
    """Delete a checkpoint. It loses its name first: one that is half-deleted is never found."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def require_writable(folder: Path, flag: str) -> None:
    """Make the folder and see that a file can be made in it. ValueError naming `flag` if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{flag}: cannot write to {folder}: {error.strerror}") from error


def choose_checkpoint(output_dir: str, asked: Optional[str], overwrite: bool) -> Optional[str]:
    """The checkpoint to continue from: the one asked for, else the newest of `output_dir`, else None."""
    if asked is not None and asked not in ("latest", "none"):
        if not Path(asked, "unet").is_dir():
            raise ValueError(f"--resume_from_checkpoint: {asked} is not a checkpoint (it has no unet folder)")
        return asked
    if overwrite:
        return None
    found = find_checkpoints(Path(output_dir))
    if asked == "none":
        if found:
            raise ValueError(
                f"--resume_from_checkpoint none: {output_dir} has {found[-1].name}, which a later run would continue; "
                "use another --output_dir, or --overwrite_output_dir to delete it"
            )
        return None
    if asked == "latest" and not found:
        raise ValueError(f"--resume_from_checkpoint latest: {output_dir} has no checkpoint")
    return str(found[-1]) if found else None


def publish(staged: Path, final: Path) -> None:
    """Give a staged checkpoint its name. Of several nodes that share the disk one does; the others find nothing."""
    mine = staged.with_name(f"{staged.name}.{secrets.token_hex(4)}")
    try:
        os.replace(staged, mine)
    except FileNotFoundError:
        return
    if final.is_dir():
        discard(final)
    os.replace(mine, final)


def save_trained(
    folder: Path,
    bundle: Bundle,
    train_text_encoder: bool,
    ema: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
) -> None:
    """`folder/unet` (with an `ema` variant), and `folder/text_encoder` where it is trained."""
    save_component(bundle.unet, folder / "unet", masters=masters)
    if ema is not None:
        count = {"ema_updates": str(ema.updates)}
        save_component(bundle.unet, folder / "unet", weights=ema.state_dict(), variant="ema", metadata=count)
    if train_text_encoder:
        save_component(bundle.text_encoder, folder / "text_encoder", masters=masters)


def load_trained(folder: Path, bundle: Bundle, train_text_encoder: bool, ema: Optional[EMA]) -> None:
    """What `save_trained` wrote, back into the layers. Raises ValueError when something is missing or differs."""
    load_weights(bundle.unet, folder / "unet")
    if train_text_encoder:
        load_weights(bundle.text_encoder, folder / "text_encoder")
    if ema is not None:
        file = folder / "unet" / weights_file(bundle.unet, "ema")
        if not file.is_file():
            raise ValueError(f"--use_ema: {folder} was saved without EMA; leave --use_ema out or start over")
        updates = read_metadata(file).get("ema_updates")
        if updates is None:
            raise ValueError(f"{file} does not say how many EMA updates it holds")
        ema.set_state_dict(read_weights(file), int(updates))


def save_positions(folder: Path, positions: list[dict[str, Any]]) -> None:
    """Where every process stands in its data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / POSITION).write_text(json.dumps(positions), encoding="utf-8")


def load_positions(folder: Path) -> list[dict[str, Any]]:
    """One of each process that saved. Raises ValueError if the file is missing or broken."""
    try:
        return list(json.loads((folder / POSITION).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} does not say which records were used: {POSITION}: {error}") from error


def export_pipeline(
    folder: Path,
    bundle: Bundle,
    prediction_type: str,
    *,
    averaged: Optional[EMA] = None,
    masters: Optional[Mapping[str, paddle.Tensor]] = None,
) -> None:
    """A whole ppdiffusers pipeline folder in float32, with the averaged UNet if one is given.

    model_index.json, which makes it a pipeline, goes first and comes last.
    """
    (folder / "model_index.json").unlink(missing_ok=True)
    pipe = build_pipeline(bundle, prediction_type)
    save_component(bundle.vae, folder / "vae", masters=masters)
    save_component(bundle.text_encoder, folder / "text_encoder", masters=masters)
    save_component(bundle.unet, folder / "unet", masters=masters, weights=averaged.state_dict() if averaged else None)
    bundle.tokenizer.save_pretrained(str(folder / "tokenizer"))
    pipe.scheduler.save_pretrained(str(folder / "scheduler"))
    pipe.save_config(str(folder))
