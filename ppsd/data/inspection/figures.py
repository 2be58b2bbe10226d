"""Numbers about the records of a summary: quantiles, captions, duplicates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ppsd.data.inspection.looks import NO_LOOK, near_hashes

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
EXAMPLES = 8


@dataclass(frozen=True)
class Place:
    """A record: source, part and number."""

    source: int
    part: int
    number: int


@dataclass
class Figures:
    """quantiles: by name, at QUANTILES. tokens: captions with more than max_length tokens are cut.

    Shares are of the usable records. copies: those whose image file came before, byte for byte; near: those that look
    like another image file. repeated_captions and repeated_images: the most frequent, with their numbers.
    """

    count: int
    quantiles: dict[str, list[float]] = field(default_factory=dict)
    empty_captions: int = 0
    cut_captions: int = 0
    repeated_captions: list[tuple[int, Place]] = field(default_factory=list)
    copies: int = 0
    repeated_images: list[tuple[int, list[Place]]] = field(default_factory=list)
    near: int = 0
    near_pairs: list[tuple[Place, Place]] = field(default_factory=list)


def make_figures(rows: np.ndarray, max_length: int) -> Figures:
    """Of the usable ones of rows PLACED [N] (see ppsd.data.inspection.summary)."""
    rows = rows[rows["good"]]
    figures = Figures(len(rows))
    if not len(rows):
        return figures
    figures.quantiles = _quantiles(rows)
    figures.empty_captions = int((rows["characters"] == 0).sum())
    figures.cut_captions = int((rows["tokens"] > max_length).sum())
    captions = rows[rows["characters"] > 0]
    figures.repeated_captions = [(count, where[0]) for count, where in _most_frequent(captions, "caption")]
    _find_copies(rows, figures)
    _find_near(rows, figures)
    return figures


def _quantiles(rows: np.ndarray) -> dict[str, list[float]]:
    width, height = rows["width"].astype(float), rows["height"].astype(float)
    values = {
        "width": width,
        "height": height,
        "short side": np.minimum(width, height),
        "aspect ratio": width / np.maximum(height, 1),
        "KB an image": rows["num_bytes"] / 1e3,
        "characters": rows["characters"],
    }
    if rows["tokens"].any():
        values["tokens"] = rows["tokens"]
    return {name: np.quantile(numbers, QUANTILES).tolist() for name, numbers in values.items()}


def _most_frequent(rows: np.ndarray, key: str) -> list[tuple[int, list[Place]]]:
    """The values of `key` that come more than once: how often, and where some are."""
    values, counts = np.unique(rows[key], return_counts=True)
    top = np.argsort(-counts, kind="stable")[:EXAMPLES]
    return [(int(counts[i]), _places(rows[rows[key] == values[i]][:3])) for i in top if counts[i] > 1]


def _places(rows: np.ndarray) -> list[Place]:
    return [Place(int(row["source"]), int(row["part"]), int(row["number"])) for row in rows]


def _find_copies(rows: np.ndarray, figures: Figures) -> None:
    figures.copies = len(rows) - len(np.unique(rows["content"]))
    figures.repeated_images = _most_frequent(rows, "content") if figures.copies else []


def _find_near(rows: np.ndarray, figures: Figures) -> None:
    """Among image files that differ and have a look."""
    rows = rows[rows["look"] != NO_LOOK]
    rows = rows[np.unique(rows["content"], return_index=True)[1]]
    looks, first, back, counts = np.unique(rows["look"], return_index=True, return_inverse=True, return_counts=True)
    near = near_hashes(looks)
    figures.near = int(((counts > 1) | near.flags)[back].sum())
    same = [np.flatnonzero(back == i)[:2] for i in np.flatnonzero(counts > 1)[: EXAMPLES // 2]]
    pairs = [(a, b) for a, b in same] + [(first[a], first[b]) for a, b in near.pairs]
    found = [_places(rows[[a, b]]) for a, b in pairs[:EXAMPLES]]
    figures.near_pairs = [(a, b) for a, b in found]
