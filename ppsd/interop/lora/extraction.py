"""A LoRA from two pipelines: the best approximation, of a rank, of what tuning changed (Eckart and Young)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import numpy as np

from ppsd.adapters.places import Place
from ppsd.adapters.targets import PRESETS
from ppsd.interop.lora.changes import said
from ppsd.interop.lora.low_rank import Factors, kept_norm, lora_of, rank_by_energy, svd_of
from ppsd.interop.lora.model_weights import Component
from ppsd.interop.lora.names import known_place

INNER = {
    "Attention": r"\.attn[12]\.",
    "Transformer2DModel": r"\.attentions\.\d+\.",
    "ResnetBlock2D": r"\.resnets\.\d+\.",
    "Downsample2D": r"\.downsamplers\.\d+\.",
    "Upsample2D": r"\.upsamplers\.\d+\.",
    "CLIPAttention": r"\.self_attn\.",
    "CLIPMLP": r"\.mlp\.",
}
"""What the path of a layer within one of these classes has, since here there are only names."""
ENDS = re.compile(r"conv_(in|out)|(time|add)_embedding\.linear_[12]")


@dataclass(frozen=True)
class Asked:
    """rank or energy (of the sum of the squared singular values of each layer); max_rank limits both.

    conv_rank: of convolutions larger than 1 x 1, which with a rank and without this are left out. targets: a preset's
    name, or a regular expression that is searched in the paths.
    """

    rank: Optional[int] = None
    energy: Optional[float] = None
    conv_rank: Optional[int] = None
    max_rank: Optional[int] = None
    targets: str = "full"


class Line(NamedTuple):
    """Of one layer. norm, error: Frobenius, of the change and of what the LoRA lacks; wanted: the rank asked for."""

    place: Place
    rank: int
    wanted: int
    norm: float
    error: float


class Lost(NamedTuple):
    """A tensor that differs and is not in the LoRA."""

    name: str
    reason: str
    norm: float


@dataclass
class Extracted:
    """same: how many tensors do not differ."""

    layers: dict[Place, Factors] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    same: int = 0


def extract(base: Mapping[str, Component], tuned: Mapping[str, Component], asked: Asked) -> Extracted:
    """Of the parts of `base`. Raises ValueError for models of other layers or shapes, and for NaN."""
    missing = [part for part in base if part not in tuned]
    if missing:
        raise ValueError(f"--tuned has no {missing[0]}/")
    for part, component in base.items():
        check_alike(component, tuned[part])
    found = Extracted()
    for part, component in base.items():
        for name in component.names():
            change = tuned[part].value(name) - component.value(name)
            if not np.isfinite(change).all():
                raise ValueError(f"{part}.{name} has values that are NaN or infinite, in one of the two pipelines")
            if not change.any():
                found.same += 1
                continue
            place = _place(part, name, change)
            reason = why_not(place, name, change, asked)
            if place is None or reason:
                found.lost.append(Lost(f"{part}.{name}", reason, float(np.linalg.norm(change))))
            else:
                found.layers[place], line = _extract(place, change, asked)
                found.lines.append(line)
    return found


def check_alike(one: Component, other: Component) -> None:
    """Raise ValueError where two networks have other tensors, or of other shapes."""
    ours, theirs = ({n: m.shape(n) for n in m.names()} for m in (one, other))
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if differing:
        shown = "; ".join(f"{name} {_said(ours.get(name))} and {_said(theirs.get(name))}" for name in differing[:3])
        raise ValueError(f"{one.folder} and {other.folder} are different models, in {len(differing)} tensors: {shown}")


def why_not(place: Optional[Place], name: str, change: np.ndarray, asked: Asked) -> str:
    """Why a tensor has no place in the LoRA; empty where it has."""
    if place is None:
        return _kind(name)
    if not is_target(place, asked.targets):
        return "not among --targets"
    if asked.rank is not None and asked.conv_rank is None and math.prod(change.shape[2:]) > 1:
        return "convolution, without --conv_rank"
    return ""


def is_target(place: Place, targets: str) -> bool:
    preset = PRESETS.get(targets)
    if preset is None:
        return re.search(targets, place.path) is not None
    classes = preset.unet if place.part == "unet" else preset.text_encoder
    inner = any(re.search(INNER[name], f".{place.path}") for name in classes)
    return inner or (preset.ends and place.part == "unet" and ENDS.fullmatch(place.path) is not None)


def _place(part: str, name: str, change: np.ndarray) -> Optional[Place]:
    if not name.endswith(".weight") or change.ndim not in (2, 4) or name.endswith("embedding.weight"):
        return None
    return known_place(part, name[: -len(".weight")])


def _kind(name: str) -> str:
    if name.endswith(".bias") and "norm" not in name:
        return "bias"
    return "norm" if "norm" in name else "embedding" if "embedding" in name else "other"


def _extract(place: Place, change: np.ndarray, asked: Asked) -> tuple[Factors, Line]:
    svd = svd_of(change.reshape(len(change), -1))
    large = math.prod(change.shape[2:]) > 1
    if asked.energy is not None:
        wanted = rank_by_energy(svd.values, asked.energy)
    else:
        wanted = int((asked.conv_rank if large else asked.rank) or 0)
    rank = min(wanted, svd.room, asked.max_rank or wanted)
    norm = float(np.linalg.norm(svd.values))
    error = norm * math.sqrt(max(0.0, 1.0 - kept_norm(svd.values, rank) ** 2))
    return lora_of(svd, rank, change.shape), Line(place, rank, wanted, norm, error)


def _said(shape: Optional[tuple[int, ...]]) -> str:
    return "missing" if shape is None else str(list(shape))


def too_small(lines: list[Line], max_rank: Optional[int]) -> Iterator[str]:
    """Layers that have less room than the rank asked for."""
    return (
        f"{said(line.place)} {line.rank}" for line in lines if line.rank < min(line.wanted, max_rank or line.wanted)
    )
