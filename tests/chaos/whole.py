"""Is a checkpoint whole, and are two runs the same? A few lines that share nothing with the code they check."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


def require_whole(checkpoint: Path) -> None:
    """Every file that COMPLETE lists is there with its size and CRC-32, and no other."""
    manifest = json.loads((checkpoint / "COMPLETE").read_text(encoding="utf-8"))
    assert f"checkpoint-{manifest['step']}" == checkpoint.name, f"{checkpoint} says it is of step {manifest['step']}"
    there = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()} - {"COMPLETE"}
    assert there == set(manifest["files"]), f"{checkpoint}: {there ^ set(manifest['files'])} are not both"
    for name, (size, checksum) in manifest["files"].items():
        data = (checkpoint / name).read_bytes()
        assert (len(data), zlib.crc32(data)) == (size, checksum), f"{checkpoint / name} is not what was written"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of all safetensors files of a folder: weights, EMA, optimizer state. Of a run's: what it exported."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        if any(name.startswith("checkpoint-") for name in file.relative_to(folder).parts):
            continue
        found.update({f"{file.relative_to(folder)}:{name}": value for name, value in load_file(str(file)).items()})
    return found


def largest_difference(a: Path, b: Path) -> float:
    """Over all arrays of two folders, which must have the same names and shapes."""
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys(), f"{sorted(ours.keys() ^ theirs.keys())[:3]} are only in one of {a} and {b}"
    assert ours, f"{a} holds no tensors"
    differences = [np.abs(ours[name].astype("float64") - theirs[name]).max(initial=0.0) for name in ours]
    return float(np.max(differences))  # NaN if there is one


def logged_losses(checkpoint: Path) -> dict[int, float]:
    """By step, exactly as they were logged."""
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    entries = [entry for entry in state["log_history"] if "loss" in entry]
    steps = [entry["step"] if "step" in entry else entry["global_step"] for entry in entries]
    assert len(set(steps)) == len(steps), "a step was logged twice"
    return dict(zip(steps, (entry["loss"] for entry in entries)))
