"""What one part was found to hold, and how it is written down."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

import numpy as np

from ppsd.data.tally import Tally

# One row for each record that could be read. width and height are those of the upright image, 0 where they cannot be
# read. tokens: with both ends, uncut, 0 where nothing counted them. content, caption: hashes of the image's bytes and
# of the caption. look: see ppsd.data.inspection.looks.
ROW = np.dtype(
    [
        ("number", "<u4"),
        ("good", "?"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("num_bytes", "<u4"),
        ("characters", "<u4"),
        ("tokens", "<u2"),
        ("content", "<u8"),
        ("look", "<u8"),
        ("caption", "<u8"),
    ]
)


@dataclass
class Tile:
    """A sample as training sees it: a JPEG file of its pixels in base64, its caption, and what its tokens say.

    tokens: of the uncut caption; cut: whether that is more than are used. kept is None where nothing was tokenised.
    chance: in [0, 1); the tiles with the lowest ones are a random choice.
    """

    jpeg: str
    where: str
    caption: str
    kept: Optional[str]
    tokens: int
    cut: bool
    chance: float


@dataclass
class PartResult:
    """The records of a part, or of some of it. failure: why the part could not be read (on), if so.

    records: those that were looked at, usable or not; estimate: how many the whole part has, None where that cannot be
    said; repeats: how often the list names the part; seconds: what reading them and making samples of them took.
    kinds: "JPEG RGB" and the like, with how many. stamp: see ppsd.formats.stamp.
    """

    source: int
    part: int
    path: str
    stamp: Optional[list[int]] = None
    repeats: int = 1
    records: int = 0
    estimate: Optional[int] = None
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)
    failure: Optional[str] = None
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, ROW))
    tiles: list[Tile] = field(default_factory=list)

    @property
    def missing(self) -> bool:
        """Whether not even its first record could be read."""
        return self.failure is not None and self.records == 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": base64.b64encode(self.rows.tobytes()).decode()}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> PartResult:
        """Raises ValueError, KeyError or TypeError for what `to_json` did not write."""
        rows = np.frombuffer(base64.b64decode(facts["rows"]), ROW)
        tiles = [Tile(**tile) for tile in facts["tiles"]]
        return cls(**{**facts, "rows": rows, "tally": Tally(**facts["tally"]), "tiles": tiles})
