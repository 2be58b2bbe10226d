"""Where a ControlNet or T2I-Adapter is that a user names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppsd.interop.lora.attaching import parse_weighted
from ppsd.models.control_models import CONFIG, KINDS, kind_of
from ppsd.models.saving import read_config, weights_file
from ppsd.trainers.checkpoint import find_checkpoints

logger = logging.getLogger(__name__)

_PARTS = ("controlnet", "adapter")
"""Of pipelines; a run's checkpoints have the first."""


@dataclass(frozen=True)
class Scaled:
    """A ControlNet or T2I-Adapter, and how much it has to say. path: a folder or hub name; label: for people."""

    path: str
    scale: float = 1.0
    label: str = ""


def parse_controlnets(words: Sequence[str], flag: str = "--controlnet") -> list[Scaled]:
    """PATH or PATH:SCALE each (see `find_controlnet`); none of them for the word `none`. Raises ValueError naming the
    flag, for folders that hold something else, too."""
    if list(words) == ["none"]:
        return []
    found = []
    for path, scale in (parse_weighted(word, flag) for word in words):
        place = find_controlnet(path, flag)
        kind_of(place, flag)
        unet = Path(place).with_name("unet")
        if Path(place).name == _PARTS[0] and unet.is_dir():
            logger.info("%s was trained together with a UNet: --unet %s", place, unet)
        found.append(Scaled(place, scale, label_of(Path(path))))
    return found


def label_of(path: Path) -> str:
    """What tells it from others: `controlnet` would not."""
    return path.parent.name if path.name in _PARTS and path.parent.name else path.name


def at_once(rows: Sequence[Sequence[Scaled]], flag: str = "--controlnet") -> int:
    """How many pictures the ControlNets of a row are shown; rows without any do not count. ValueError for different
    numbers."""
    counts = {len(row) for row in rows if row}
    if len(counts) > 1:
        said = " and ".join(map(str, sorted(counts)))
        raise ValueError(f"{flag}: rows of {said}; all are shown the same pictures, so each needs as many, or none")
    return next(iter(counts), 0)


def find_controlnet(path: str, flag: str) -> str:
    """The folder with its config.json: `path` itself, `path`/controlnet of a pipeline or a checkpoint, or that of the
    newest checkpoint of a run that has not yet exported one. What is not there is taken for a hub name.

    Raises ValueError naming the flag.
    """
    folder = Path(path)
    if not folder.exists():
        return path
    if not folder.is_dir():
        raise ValueError(f"{flag}: {path} is a file; a folder with {CONFIG} and weights is needed, or a hub name")
    for place in (folder, *(folder / part for part in _PARTS), *_of_newest(folder)):
        if (place / CONFIG).is_file() and (place == folder or _is_control(place)):
            return str(place)
        if place.name == _PARTS[0] and (place / weights_file(None)).is_file():
            raise ValueError(
                f"{flag}: {place} holds adapters beside a ControlNet; what the run exports is a whole one, to draw with"
            )
    raise ValueError(f"{flag}: {path} has neither {CONFIG} nor a folder controlnet, and holds no checkpoint with one")


def controlnets_of_pipeline(pipeline: str) -> list[Scaled]:
    """Those that a pipeline's folder has of its own, as diffusers writes one or several; none of a hub name."""
    found: list[Scaled] = []
    place = Path(pipeline, _PARTS[0])
    while (place / CONFIG).is_file() and _is_control(place):
        found.append(Scaled(str(place), label=place.name))
        place = place.with_name(f"{_PARTS[0]}_{len(found)}")
    return found


def _of_newest(run: Path) -> list[Path]:
    return [checkpoint / _PARTS[0] for checkpoint in find_checkpoints(run)[-1:]]


def _is_control(folder: Path) -> bool:
    return read_config(folder / CONFIG).get("_class_name") in KINDS
