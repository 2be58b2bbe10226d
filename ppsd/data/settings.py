"""What the lanes of a run have in common, and the position of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional, Union

import numpy as np

from ppsd.data.buckets import Buckets, Size
from ppsd.data.source import Source
from ppsd.data.window import Measure
from ppsd.types import BadRecord, LatentRecord, Record, Sample

MakeSample = Callable[[Union[Record, LatentRecord], int, Size], Union[Sample, BadRecord]]


class Cursor(NamedTuple):
    """Where a lane stands in a source: `offset` groups into the window after line `line` of a unit of the segment.

    In an indexed source `line` is the number of groups of the epoch up to the lane's last one, the rest is 0.
    """

    epoch: int = 0
    segment: int = 0
    unit: int = 0
    line: int = 0
    offset: int = 0


@dataclass
class LaneState:
    """A lane's position: groups drawn so far and, by source index, the cursor after the last one from that source."""

    draws: int = 0
    cursors: dict[int, Cursor] = field(default_factory=dict)

    def advance(self, row: np.ndarray) -> None:
        """Move past the group whose samples have this cursor row (see `Lane.draw`)."""
        self.draws = int(row[1])
        self.cursors[int(row[2])] = Cursor(*(int(number) for number in row[3:]))


@dataclass(frozen=True)
class LaneSettings:
    """What all lanes of a run have in common.

    A draw gives one sample of `size` (width, height), or, with `buckets`, `group_size` samples of one bucket's size;
    for these `measure` tells the size of an image. buffer_size and buffer_bytes limit the undecoded records that a
    lane holds. filter: the expression that the sources' readers apply. alternate: the sources take turns, whatever
    their weights.
    """

    sources: Sequence[Source]
    num_lanes: int
    seed: int
    buffer_size: int
    shuffle: bool
    make_sample: MakeSample
    size: Size = (0, 0)
    buffer_bytes: float = float("inf")
    buckets: Optional[Buckets] = None
    group_size: int = 1
    measure: Optional[Measure] = None
    filter: Optional[str] = None
    alternate: bool = False
