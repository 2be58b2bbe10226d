"""Held-out losses of a run, record by record, and whether one is above another by more than chance."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ppsd.formats.atomic import atomic_write

FILE = "validation.json"
VERSION = 1


class Estimate(NamedTuple):
    """A mean and its standard error, which is NaN of fewer than two records."""

    value: float
    error: float


def estimate(values: np.ndarray) -> Estimate:
    """Of the mean over all records that might have been held out: values float64 [N], one a record."""
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), float(error))


@dataclass
class Measurements:
    """By step, the loss of each record. The file has the records' names, so that one can look for the hard ones.

    A difference of two measurements is taken record by record: noise, timesteps and pictures are the same in both, so
    its standard error is far below that of either.
    """

    digest: str
    names: Sequence[str]
    timesteps: int
    losses: dict[int, np.ndarray] = field(default_factory=dict)
    averaged: dict[int, np.ndarray] = field(default_factory=dict)

    def lowest(self) -> Optional[int]:
        """The step with the lowest mean, of the trained weights; one that is not a number is above all others."""
        return min(self.losses, key=lambda step: np.nan_to_num(self.losses[step].mean(), nan=np.inf), default=None)

    def change(self, step: int, since: int) -> Estimate:
        return estimate(self.losses[step] - self.losses[since])

    def save(self, folder: Path) -> None:
        steps = [
            {"step": step, "loss": values.tolist(), "loss_ema": _listed(self.averaged.get(step))}
            for step, values in sorted(self.losses.items())
        ]
        facts = {
            "version": VERSION,
            "digest": self.digest,
            "timesteps": self.timesteps,
            "records": list(self.names),
            "measurements": steps,
        }
        with atomic_write(folder / FILE) as file:
            file.write(json.dumps(facts).encode())

    def load(self, folder: Path, until: int) -> None:
        """What an earlier process measured on the same records, up to step `until`. Nothing where there is none.

        Raises ValueError naming the file if it cannot be read.
        """
        file = folder / FILE
        if not file.is_file():
            return
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))
            same = (saved["version"], saved["digest"], saved["timesteps"]) == (VERSION, self.digest, self.timesteps)
            for entry in saved["measurements"] if same else ():
                if entry["step"] <= until:
                    self.losses[entry["step"]] = np.array(entry["loss"], np.float64)
                    if entry["loss_ema"] is not None:
                        self.averaged[entry["step"]] = np.array(entry["loss_ema"], np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: cannot be read ({error!r}); delete it to start a new one") from error


def _listed(values: Optional[np.ndarray]) -> Optional[list[float]]:
    return None if values is None else values.tolist()
