"""Which flags a UNet of each kind needs beside prompts, and which mean nothing to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, Optional

from ppsd.models.widening import DEPTH, INPAINTING, INPUTS

TEXT = 0
_TAKES: Mapping[int, tuple[str, ...]] = {
    TEXT: ("controlnet", "image", "annotator", "annotator_model"),
    INPAINTING: ("image", "mask", "keep_unmasked"),
    DEPTH: ("image", "depth", "annotator", "annotator_model", "strength"),
}


def check_given(given: set[str], beside: int) -> None:
    """Raise ValueError naming the flag. given: names of flags; beside: the UNet's channels beside the latents'."""
    for name in sorted(given - set(_TAKES[beside])):
        takers = " or ".join(INPUTS[kind] for kind, names in _TAKES.items() if name in names)
        raise ValueError(f"--{name} is for {takers}; this is {INPUTS[beside]}")
    problem = _PROBLEMS[beside](given)
    if problem is not None:
        raise ValueError(problem)


def _problem_of_text(given: set[str]) -> Optional[str]:
    if "image" in given and "controlnet" not in given:
        return f"--image: {INPUTS[TEXT]} draws after a picture only with --controlnet"
    if "image" not in given and given:
        needs = "a ControlNet" if "controlnet" in given else f"--{sorted(given)[0]}"
        return f"--image missing: {needs} needs the picture to draw after"
    return None


def _problem_of_inpainting(given: set[str]) -> Optional[str]:
    missing = [f"--{name}" for name in ("image", "mask") if name not in given]
    needs = f"{INPUTS[INPAINTING]} needs a picture, and a mask that is light where it is painted anew"
    return f"{' and '.join(missing)} missing: {needs}" if missing else None


def _problem_of_depth(given: set[str]) -> Optional[str]:
    if {"depth", "annotator"} <= given:
        return "--annotator and --depth both say what the depth map is; give one of them"
    if "depth" not in given and not {"image", "annotator"} <= given:
        return f"--depth missing: {INPUTS[DEPTH]} needs a depth map, or --image and --annotator to make it of"
    if "strength" in given and "image" not in given:
        return "--strength says how much of --image is changed; give it, too"
    return None


_PROBLEMS: Mapping[int, Callable[[set[str]], Optional[str]]] = {
    TEXT: _problem_of_text,
    INPAINTING: _problem_of_inpainting,
    DEPTH: _problem_of_depth,
}
