"""The flags by which a command line says what is drawn after: they are the same wherever something is drawn."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from ppsd.data.annotators import ANNOTATORS, MODELS, hand_in
from ppsd.data.resample import Size
from ppsd.models.annotators import load_annotator
from ppsd.sampling.condition_checks import check_given
from ppsd.sampling.conditioned import Told
from ppsd.sampling.depth import STRENGTH
from ppsd.sampling.picture_files import Annotator, read_condition, read_picture
from ppsd.sampling.pipeline import beside_latents
from ppsd.sampling.scenes import Scene, find_scenes

hand_in(load_annotator)  # the data know no networks

_IMAGE = (
    "Pictures: what the ControlNet is shown, what an inpainting UNet changes, what a depth UNet begins with. A folder"
    " stands for its pictures. One is for all prompts, several are for as many prompts, or all for one prompt. Several"
    " ControlNets: one picture for each; again for further ones. They are scaled and cut to the size that is drawn."
)
_MASK = "For an inpainting UNet: light is painted anew, dark stays. One for each picture, or one for all."
_DEPTH = "For a depth UNet: light is near. One for each prompt, or one for all. Without it --annotator makes one."
_ANNOTATOR = (
    "Makes what the ControlNet is shown, or the depth map, of ordinary --image pictures:"
    f" {', '.join([*ANNOTATORS, *MODELS])}. With several ControlNets one for each, none where the picture is one"
    " already."
)
_ANNOTATOR_MODEL = f"Folder or hub name of the network of an annotator that is one ({', '.join(MODELS)}); one for each."
_STRENGTH = f"How much of --image a depth UNet changes, above 0 to 1. (default: {STRENGTH})"
_KEEP = "After inpainting, put back the picture's own pixels where the mask is dark: the VAE changes them a little."


def add_condition_flags(parser: argparse.ArgumentParser) -> None:
    """--image and what goes with it."""
    add = partial(parser.add_argument, default=[], nargs="+")
    add("--image", action="append", metavar="FILE", help=_IMAGE)
    add("--annotator", metavar="NAME", help=_ANNOTATOR)
    add("--annotator_model", metavar="PATH", help=_ANNOTATOR_MODEL)
    add("--mask", metavar="FILE", help=_MASK)
    add("--depth", metavar="FILE", help=_DEPTH)
    parser.add_argument("--strength", type=float, help=_STRENGTH)
    parser.add_argument("--keep_unmasked", action="store_true", help=_KEEP)


@dataclass(frozen=True)
class ConditionFlags:
    """What `add_condition_flags` adds. controlnets: how many are used at once."""

    image: Sequence[Sequence[str]] = ()
    mask: Sequence[str] = ()
    depth: Sequence[str] = ()
    annotator: Sequence[str] = ()
    annotator_model: Sequence[str] = ()
    strength: Optional[float] = None
    keep_unmasked: bool = False
    controlnets: int = 0

    @classmethod
    def of(cls, args: argparse.Namespace, controlnets: int = 0) -> ConditionFlags:
        """Raises ValueError for --strength beyond what it can be."""
        made = cls(**{name: getattr(args, name) for name in _NAMES}, controlnets=controlnets)
        if made.strength is not None and not 0 < made.strength <= 1:
            raise ValueError(f"--strength {made.strength:g} must be above 0 and at most 1")
        return made

    @property
    def settings(self) -> dict[str, Any]:
        """Those of `generate_told`."""
        strength = {} if self.strength is None else {"strength": self.strength}
        return {**strength, "keep_unmasked": self.keep_unmasked}

    def scenes(self) -> list[Scene]:
        """Raises ValueError, naming the flag, for files that are missing or too few."""
        return find_scenes(self.image, self.mask, self.depth, self.controlnets)

    def check(self, pipe: Any) -> None:
        """Raise ValueError, naming the flag, where a flag is missing or has no meaning for the pipeline's UNet."""
        values = {name: getattr(self, name) for name in _NAMES}
        given = {name for name, value in {**values, "controlnet": self.controlnets}.items() if value}
        check_given(given, beside_latents(pipe.unet, pipe.vae))

    def read(self, scenes: Sequence[Scene], size: Size, seed: int) -> Told:
        """What the scenes have, of that size (width, height). seed: of annotators that leave something to chance.

        Raises ValueError naming the flag and the file.
        """
        if not scenes:
            return {}
        picture, condition = cache(read_picture), cache(read_condition)  # files may be in several scenes
        if self.controlnets:
            shows = [self._shower(name, size, seed) for name in self._annotators("conditioning", self.controlnets)]
            rows = [[show(file) for show, file in zip(shows, scene.images)] for scene in scenes]
            return {"controls": np.stack([np.stack(row) for row in rows])}
        told: dict[str, list[np.ndarray]] = {}
        annotator = self._annotators("depth", 1)[0]
        for scene in scenes:
            if scene.images:
                told.setdefault("pixels", []).append(picture(scene.images[0], size, "--image"))
            beside = (scene.images[0], "--image") if scene.images else None
            if scene.mask is not None:
                told.setdefault("mask", []).append(condition("mask", scene.mask, size, "--mask", beside))
            if scene.depth is not None:
                told.setdefault("depth", []).append(condition("depth", scene.depth, size, "--depth", beside))
            elif annotator is not None:
                told.setdefault("depth", []).append(annotator(told["pixels"][-1], seed))
        return {name: np.stack(arrays) for name, arrays in told.items()}

    def _annotators(self, condition: str, count: int) -> list[Optional[Annotator]]:
        """One for each of so many pictures. Raises ValueError naming the flag."""
        names = list(self.annotator or ["none"])
        if len(names) not in (1, count):
            raise ValueError(f"--annotator: {len(names)} names for {count} ControlNets: one for each, or one for all")
        networks = [i for i, name in enumerate(names) if name.partition(":")[0] in MODELS]
        if len(self.annotator_model) > len(networks):
            raise ValueError(
                f"--annotator_model: {len(self.annotator_model)} for {len(networks)} networks of --annotator"
            )
        models = dict(zip(networks, self.annotator_model))
        made = [None if name == "none" else Annotator(name, models.get(i), condition) for i, name in enumerate(names)]
        return made * (count // len(made))

    def _shower(self, annotator: Optional[Annotator], size: Size, seed: int) -> Callable[[Path], np.ndarray]:
        """What a ControlNet is shown of a file."""

        @cache
        def show(file: Path) -> np.ndarray:
            if annotator is None:
                return read_condition("conditioning", file, size, "--image")
            return annotator(read_picture(file, size, "--image"), seed)

        return show


_NAMES = tuple(field.name for field in fields(ConditionFlags) if field.name != "controlnets")
