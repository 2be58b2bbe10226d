"""What passes between the rooms of ppsd. Knows neither paddle nor any other room.

Shape names: B batch, C channels, H W pixels, h w latents, L tokens, D width, E text encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, TypedDict

import numpy as np


@dataclass(frozen=True)
class Record:
    """One undecoded example: the encoded image file, its caption, further columns by name, and further captions.

    hidden: [L,D] of the caption, where the text encoder has seen it.
    """

    image: bytes
    caption: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    more_captions: tuple[str, ...] = ()
    hidden: Optional[np.ndarray] = None


@dataclass(frozen=True)
class LatentRecord:
    """One example that a VAE has seen: moments [8,h,w] (mean, then log variance), caption, perhaps its hidden [L,D].

    mirrored: moments of the mirror image, where they are known. image_size: width and height of the upright image,
    where conditions need it.
    """

    moments: np.ndarray
    caption: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    more_captions: tuple[str, ...] = ()
    hidden: Optional[np.ndarray] = None
    mirrored: Optional[np.ndarray] = None
    image_size: Optional[tuple[int, int]] = None


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used. `reason` is a short fixed phrase to count by, `detail` what was seen."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class World:
    """Which of `size` devices this process drives."""

    rank: int = 0
    size: int = 1


@dataclass
class Sample:
    """One example ready to be batched. input_ids int64 [L]; extras are arrays by name.

    pixels: uint8 [3,H,W], or the float moments [8,h,w] of a LatentRecord. record: source, part in it, line or
    row; of an indexed source, its number there and which of its repeats this is.
    """

    pixels: np.ndarray
    input_ids: np.ndarray
    seed: int
    weight: float = 1.0
    cursor: Optional[np.ndarray] = None
    record: tuple[int, int, int] = (-1, -1, -1)
    extras: dict[str, np.ndarray] = field(default_factory=dict)


class Batch(TypedDict, total=False):
    """What the trainer gets from the loader: arrays stacked along B.

    pixels uint8 [B,3,H,W], or moments float32 [B,8,h,w] of cached latents; input_ids int64 [B,L];
    hidden float32 [B,L,D] where the text encoder's output is cached, too; weight float32 [B]; seed int64 [B];
    cursor int64 [B,K]: the position of each sample's lane after the sample (see ppsd.data.stream);
    record int64 [B,3]: the source, the part in it and the line or row that each sample was made of.
    Where they are wanted: conditioning uint8 [B,3,H,W], RGB; mask uint8 [B,1,H,W], 255 is painted anew, 0 kept;
    depth float32 [B,1,H,W] in 0..1, larger is nearer (see ppsd.data.conditions).
    """

    pixels: Any
    moments: Any
    hidden: Any
    input_ids: Any
    weight: Any
    seed: Any
    cursor: Any
    record: Any
    conditioning: Any
    mask: Any
    depth: Any


@dataclass
class Condition:
    """What the denoiser is told beside x_t and t. hidden [B,L,D].

    control: a picture of what is wanted where, float [B,3,H,W] in 0..1; concat: further channels beside x_t's,
    [B,k,h,w].
    """

    hidden: Any
    control: Optional[Any] = None
    concat: Optional[Any] = None
