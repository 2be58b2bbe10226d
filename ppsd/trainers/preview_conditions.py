"""What previews are told beside their prompts: files that the flags name, or the first batch's conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ppsd.formats.atomic import atomic_write
from ppsd.sampling.picture_files import read_condition, read_picture
from ppsd.sampling.prompts import Prompt
from ppsd.sampling.scenes import matched


@dataclass(frozen=True)
class Files:
    """What a flag names for the condition `name` of each preview."""

    flag: str
    name: str
    paths: Optional[list[str]]


def pair(prompts: Sequence[Prompt], given: Sequence[Files]) -> tuple[list[Prompt], list[Files]]:
    """As many of each: what is one is repeated. Raises ValueError, naming the flags, for other numbers of them, and
    where some are given and others are not. Nothing at all is nothing."""
    if not given:
        return list(prompts), []
    counts = {f"--{files.flag}": len(files.paths or []) for files in given}
    counts["--validation_prompt"] = len(prompts)
    missing = [flag for flag, count in counts.items() if not count]
    if len(missing) == len(counts):
        return [], []
    if missing:
        there = [flag for flag in counts if flag not in missing]
        raise ValueError(f"{there[0]} needs {' and '.join(missing)}: a preview has one of each")
    columns: dict[str, Sequence[Any]] = {f"--{files.flag}": files.paths or [] for files in given}
    rows = matched({**columns, "--validation_prompt": prompts})
    sized = [prompt.text for prompt in prompts if prompt.width or prompt.height]
    if sized:
        raise ValueError(f"--sample_prompts: {sized[0]!r} has a size of its own; here it is that of --{given[0].flag}")
    return (
        [row["--validation_prompt"] for row in rows],
        [Files(files.flag, files.name, [row[f"--{files.flag}"] for row in rows]) for files in given],
    )


def read_files(given: Sequence[Files], resolution: int) -> dict[str, np.ndarray]:
    """What N previews are told; the files of one must have one shape. Raises ValueError naming the flag and file."""
    size = resolution, resolution
    first = [(Path(path), f"--{given[0].flag}") for path in given[0].paths or []]
    found: dict[str, np.ndarray] = {}
    for files in given:
        flag, paths = f"--{files.flag}", [Path(path) for path in files.paths or []]
        if files.name == "pixels":
            found[files.name] = np.stack([read_picture(path, size, flag) for path in paths])
        else:
            made = [read_condition(files.name, path, size, flag, beside) for path, beside in zip(paths, first)]
            found[files.name] = np.stack(made)
    return as_told(found)


def of_batch(names: Sequence[str], inputs: Mapping[str, Any], count: int, file: Path) -> dict[str, np.ndarray]:
    """What the first batch says, or what the run's beginning has kept of its own in `file`, unless another method's."""
    if file.is_file():
        with np.load(file, allow_pickle=False) as kept:
            if set(kept.files) == set(names):
                return as_told({name: kept[name] for name in names})
    found = {name: channels_last(np.asarray(inputs[name][:count])) for name in names}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as stream:
        np.savez_compressed(stream, **found)
    return as_told(found)


def as_told(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By the names of a batch -> by those of ppsd.sampling.conditioned.Told, with one ControlNet."""
    return {"controls": found["conditioning"][:, None]} if "conditioning" in found else found


def channels_last(values: np.ndarray) -> np.ndarray:
    """[B,3,H,W] -> [B,H,W,3]; [B,1,H,W] -> [B,H,W]."""
    return values[:, 0] if values.shape[1] == 1 else np.ascontiguousarray(values.transpose(0, 2, 3, 1))
