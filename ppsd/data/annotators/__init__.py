"""Pictures that are made of pictures: the conditions of a ControlNet where the data have none.

An annotator gets RGB pixels uint8 [3,H,W] and a seed, and gives uint8 [3,H,W], or float32 [1,H,W] in 0..1 (a depth).
What it gives is a function of both. Those of ANNOTATORS need no weights. Those of MODELS are networks, which this room
knows nothing of: who may import paddle hands them in by `hand_in`. Those of DRAWINGS draw points that the data have.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Callable, Optional

import numpy as np

from ppsd.data.annotators.blur import blur
from ppsd.data.annotators.canny import canny
from ppsd.data.annotators.color import color
from ppsd.data.annotators.grey import grey
from ppsd.data.annotators.landmarks import draw_landmarks
from ppsd.data.annotators.outlines import outlines
from ppsd.data.annotators.pose import draw_pose
from ppsd.data.annotators.shuffle import shuffle

Annotate = Callable[[np.ndarray, int], np.ndarray]
Load = Callable[[str, str], Annotate]

ANNOTATORS: Mapping[str, Callable[..., np.ndarray]] = {
    "canny": canny,
    "outlines": outlines,
    "color": color,
    "grey": grey,
    "blur": blur,
    "shuffle": shuffle,
}
"""By their names on the command line, where numbers may follow: canny:50,150."""

MODELS = ("depth", "normal", "hed", "seg")
DRAWINGS: Mapping[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "landmarks": draw_landmarks,
    "pose": draw_pose,
}
NAMES = (*ANNOTATORS, *MODELS, *DRAWINGS)

_TOOL = "tools/annotate.py"
_handed_in: list[Load] = []


def hand_in(load: Load) -> None:
    """Say how networks are loaded: load(name, path or hub name) -> Annotate; it raises ValueError where it cannot."""
    _handed_in[:] = [load]


def check_annotator(text: str, model: Optional[str]) -> None:
    """Raise ValueError, naming the flag, for what --annotator and --annotator_model cannot mean."""
    name, _ = _name_and_numbers(text)
    if name in MODELS and not model:
        raise ValueError(f"--annotator {name} needs --annotator_model: the folder of its network, or a name on the hub")
    if name not in MODELS and model:
        raise ValueError(f"--annotator {name} needs no network: leave --annotator_model out")


def check_on_the_fly(text: str) -> None:
    """Raise ValueError for an annotator that needs more than pixels."""
    name, _ = _name_and_numbers(text)
    if name in DRAWINGS:
        none = "; there is no network for it here" if name == "pose" else ""
        raise ValueError(
            f"--annotator {name} draws points that each record must have{none}: write the pictures beforehand, with"
            f" {_TOOL} --annotator {name} --points_column"
        )


def annotator_of(text: str, model: Optional[str] = None) -> Annotate:
    """What `NAME`, `NAME:NUMBER` or `NAME:NUMBER,NUMBER` names. A network is loaded once, and acts in this process.

    Raises ValueError naming the flag, also where a network cannot be loaded.
    """
    check_annotator(text, model)
    check_on_the_fly(text)
    name, numbers = _name_and_numbers(text)
    if name in ANNOTATORS:
        annotate = partial(ANNOTATORS[name], **numbers)
        annotate(np.zeros((3, 8, 8), np.uint8), 0)  # a library that is missing is said before the first sample
        return annotate
    assert model is not None
    return _network(name, model)


@functools.cache
def _network(name: str, model: str) -> Annotate:
    if not _handed_in:
        raise ValueError(f"--annotator {name} is a network, which cannot run here: write the pictures with {_TOOL}")
    annotate, home = _handed_in[0](name, model), os.getpid()

    def annotate_at_home(pixels: np.ndarray, seed: int) -> np.ndarray:
        """A network that was loaded before a fork hangs or crashes in the child, on a GPU always."""
        if os.getpid() != home:
            raise ValueError(
                f"--annotator {name} is a network, which data workers cannot run: give --dataloader_num_workers 0, or"
                f" write the pictures beforehand with {_TOOL} --annotator {name}, which is also faster from the second"
                " epoch on"
            )
        return annotate(pixels, seed)

    return annotate_at_home


def _name_and_numbers(text: str) -> tuple[str, dict[str, float]]:
    name, colon, given = text.partition(":")
    if name not in NAMES:
        raise ValueError(f"--annotator {text} is not one of {', '.join(NAMES)}")
    known = _parameters(name)
    words = given.split(",") if colon else []
    if len(words) > len(known):
        may = f"takes {' and '.join(f'{key} ({value:g})' for key, value in known.items())}" if known else "takes none"
        raise ValueError(f"--annotator {text}: {len(words)} numbers are too many; {name} {may}")
    numbers = dict(zip(known, (_positive(text, word) for word in words)))
    return name, numbers


def _parameters(name: str) -> dict[str, Any]:
    """The numbers that may follow a name, with their defaults."""
    signature = inspect.signature(ANNOTATORS[name]).parameters if name in ANNOTATORS else {}
    return {key: parameter.default for key, parameter in list(signature.items())[2:]}


def _positive(text: str, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"--annotator {text}: {word!r} is not a number above 0")
    return number
