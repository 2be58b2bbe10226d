"""When something that comes again and again is due."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Every:
    """Every `steps` optimizer steps, every `epochs` epochs of `epoch_steps` steps, or both. None or below 1: not so.

    epoch_steps need not be whole: an epoch that ends within a step ends with it. Epochs need it.
    """

    steps: Optional[int] = None
    epochs: Optional[int] = None
    epoch_steps: Optional[float] = None

    @property
    def ever(self) -> bool:
        return bool((self.steps and self.steps > 0) or (self.epochs and self.epochs > 0))

    def due(self, step: int) -> bool:
        """Whether it is when `step` steps have been made."""
        if self.steps and self.steps > 0 and step % self.steps == 0:
            return True
        if not self.epochs or self.epochs < 1:
            return False
        assert self.epoch_steps is not None
        period = self.epochs * self.epoch_steps
        return _over(step / period) > _over((step - 1) / period)


def _over(periods: float) -> int:
    """A millionth short of a whole one is float rounding."""
    return math.floor(periods + 1e-6)
