"""What a sample may have beside its picture, and which columns of a record hold it.

    conditioning  uint8 [3,H,W], RGB: what a ControlNet is shown (outlines, a pose, ...)
    mask          uint8 [1,H,W]: 255 is painted anew, 0 is kept
    depth         float32 [1,H,W] in 0..1: larger is nearer, as in the inverse depth of MiDaS

Each is cropped, resized and mirrored as the picture is; changes of colour are for the picture alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppsd.data.annotators import check_annotator, check_on_the_fly
from ppsd.data.masks import kinds_of

if TYPE_CHECKING:
    from ppsd.data.config import StreamConfig

COLUMNS = {"conditioning": "conditioning_image", "mask": "mask", "depth": "depth"}
"""The usual column of each: those of ppsd.formats.items.IMAGE_COLUMNS."""

NOUNS = {"conditioning": "conditioning image", "mask": "mask", "depth": "depth map"}
BYTES_A_PIXEL = {"conditioning": 3, "mask": 1, "depth": 4}


def columns_of(config: StreamConfig) -> dict[str, str]:
    """The column of each condition that is wanted."""
    return {name: getattr(config, flag_of(name)) or COLUMNS[name] for name in config.conditions}


def image_names(config: StreamConfig) -> tuple[str, ...]:
    """What readers are told to keep beside the image: each column once."""
    return tuple(dict.fromkeys(columns_of(config).values()))


def flag_of(name: str) -> str:
    """The flag that names a condition's column."""
    return f"{COLUMNS[name]}_column"


def is_named(config: StreamConfig, name: str) -> bool:
    """Whether the user has said which column it is: then every record has to have it."""
    return getattr(config, flag_of(name)) is not None


def without_conditions(config: StreamConfig) -> StreamConfig:
    """The same pictures alone."""
    nothing: dict[str, Any] = {flag_of(name): None for name in COLUMNS}
    return replace(config, conditions=(), annotator=None, **nothing)


def check_conditions(config: StreamConfig) -> None:
    """Raise ValueError, naming the flag, for settings that cannot work."""
    for name in config.conditions:
        if name not in COLUMNS:
            raise ValueError(f"condition {name!r} is not one of {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if is_named(config, name) and name not in config.conditions:
            raise ValueError(f"--{flag_of(name)} acts only where a {NOUNS[name]} is needed; leave it out")
    if config.annotator is not None:
        _check_annotator(config)
    elif config.annotator_model is not None:
        raise ValueError(f"--annotator_model {config.annotator_model}: give --annotator, too, to say what it makes")
    kinds_of(config.mask_kinds)
    if not 0 < config.mask_coverage <= 1:
        raise ValueError(f"--mask_coverage {config.mask_coverage} is not above 0 and at most 1")


def _check_annotator(config: StreamConfig) -> None:
    assert config.annotator is not None
    check_annotator(config.annotator, config.annotator_model)
    check_on_the_fly(config.annotator)
    made = [name for name in ("conditioning", "depth") if name in config.conditions]
    if not made:
        raise ValueError("--annotator acts only where a conditioning image or a depth map is needed; leave it out")
    for name in made:
        if is_named(config, name):
            raise ValueError(f"--annotator and --{flag_of(name)} both say what the {NOUNS[name]} is; give one of them")
