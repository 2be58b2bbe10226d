"""The rows of a comparison: which checkpoints and pipelines a folder holds, and over which pipeline they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ppsd.interop.added_embeddings import add_files
from ppsd.interop.lora.attaching import LoraSwitch, models_of
from ppsd.models.bundle import Bundle
from ppsd.models.control_models import load_control
from ppsd.models.saving import weights_file
from ppsd.sampling.compare import CONTROLNET, OTHER_PARTS, Candidate
from ppsd.trainers.checkpoint import find_checkpoints
from ppsd.trainers.controlnet_folders import controlnets_of_pipeline, find_controlnet
from ppsd.trainers.exporting import INDEX
from ppsd.trainers.manifest import COMPLETE, read_manifest
from ppsd.trainers.run_state import read_state

_COMPONENTS = {
    "vae": "vae_name_or_path",
    "text_encoder": "text_encoder_name_or_path",
    "tokenizer": "tokenizer_name",
    "unet": "unet_name_or_path",
}


def find_candidates(paths: Sequence[str], pipeline: Optional[str], base: bool, ema: bool) -> list[Candidate]:
    """paths: folders of runs (all of their whole checkpoints, oldest first), checkpoints, pipeline folders, hub names.

    pipeline: what checkpoints go over; None: what the runs that saved them began with. base: those are the first rows.
    ema: checkpoints with averaged weights have a row of these, too. Raises ValueError naming what cannot be compared.
    """
    rows: list[Candidate] = []
    begun: dict[tuple, Candidate] = {}
    for path in paths:
        for name, checkpoint in _checkpoints(path, alone=len(paths) == 1):
            beginning = _beginning(checkpoint, pipeline)
            begun.setdefault((beginning.pipeline, *sorted(beginning.instead.items())), beginning)
            rows += _of_checkpoint(checkpoint, name, beginning, ema)
        if not _checkpoints(path, alone=True):
            rows.append(_of_pipeline(path))
    if not base:
        return rows
    if pipeline is not None:
        return [Candidate(f"base: {pipeline}", pipeline), *rows]
    if not begun:
        raise ValueError("--base: pipelines do not say what they were made from; name it with --pipeline")
    random = [row for row in begun.values() if row.instead.get("unet", "").endswith(".json")]
    if random:
        raise ValueError(f"--base: the run began with a random UNet ({random[0].instead['unet']}); leave --base out")
    return [*begun.values(), *rows]


def _checkpoints(path: str, alone: bool) -> list[tuple[str, Path]]:
    """Whole checkpoints with their names, of a run's folder or the folder of one; none of a pipeline."""
    folder = Path(path)
    if (folder / COMPLETE).is_file():
        return [(path, folder)]
    found = find_checkpoints(folder) if folder.is_dir() else []
    if not found and folder.exists() and not (folder / INDEX).is_file():
        raise ValueError(f"{path} holds neither whole checkpoints nor a pipeline (it has no {INDEX})")
    return [(checkpoint.name if alone else str(checkpoint), checkpoint) for checkpoint in found]


def _beginning(checkpoint: Path, pipeline: Optional[str]) -> Candidate:
    """What the run that saved it began with, unless another pipeline is named."""
    flags: Mapping[str, Any] = read_state(checkpoint)["flags"]
    kind = flags.get("prediction_type")
    if pipeline is not None:
        return Candidate(f"base: {pipeline}", pipeline, prediction_type=kind)
    base = str(flags["pretrained_model_name_or_path"])
    instead = {name: str(flags[flag]) for name, flag in _COMPONENTS.items() if flags.get(flag)}
    label = f"base: {instead.get('unet', base)}"
    return Candidate(label, base, instead, prediction_type=kind)


def _of_checkpoint(folder: Path, label: str, beginning: Candidate, ema: bool) -> list[Candidate]:
    """With the trained weights, and if asked with their average."""
    names = [Path(name) for name in read_manifest(folder).files]
    weights = [name for name in names if len(name.parts) == 2 and name.suffix == ".safetensors"]
    averaged = sorted(name.parts[0] for name in weights if ".ema." in name.name)
    parts = tuple(sorted({name.parts[0] for name in weights}))
    if Path(INDEX) in names:  # of --only_save_updated_model False: all of the pipeline, with the trained weights
        beginning = Candidate("", str(folder), prediction_type=beginning.prediction_type)
        parts = tuple(sorted({*averaged, *({CONTROLNET} & set(parts))}))
    common: dict[str, Any] = {
        "pipeline": beginning.pipeline,
        "instead": {name: path for name, path in beginning.instead.items() if name not in parts},
        "checkpoint": folder,
        "parts": parts,
        "prediction_type": beginning.prediction_type,
    }
    rows = [Candidate(label, **common)]
    return [*rows, Candidate(f"{label} (EMA)", averaged=averaged[0], **common)] if ema and averaged else rows


def _of_pipeline(path: str) -> Candidate:
    """With its ControlNet, if it has one."""
    own = (CONTROLNET,) if controlnets_of_pipeline(path) else ()
    return Candidate(path, path, checkpoint=Path(path) if own else None, parts=own)


def _add_embeddings(bundle: Bundle, candidate: Candidate) -> None:
    """The new tokens of a checkpoint."""
    assert candidate.checkpoint is not None
    variant = "ema" if candidate.averaged == "embeddings" else None
    add_files(bundle, [candidate.checkpoint / "embeddings" / weights_file(None, variant)])


def _add_adapter(bundle: Bundle, candidate: Candidate) -> None:
    """The adapters of a checkpoint."""
    assert candidate.checkpoint is not None
    variant = "ema" if candidate.averaged == "adapter" else None
    file = candidate.checkpoint / "adapter" / weights_file(None, variant)
    LoraSwitch(models_of(bundle)).use([(str(file), 1.0)])


def _add_controlnet(bundle: Bundle, candidate: Candidate) -> None:
    """The ControlNet or T2I-Adapter of a checkpoint."""
    variant = "ema" if candidate.averaged == CONTROLNET else None
    bundle.controlnet = load_control(
        find_controlnet(str(candidate.checkpoint), candidate.label), bundle, candidate.label, variant
    )


OTHER_PARTS["embeddings"] = _add_embeddings
OTHER_PARTS["adapter"] = _add_adapter
OTHER_PARTS[CONTROLNET] = _add_controlnet
