"""A loss far above the usual."""

from __future__ import annotations

import math
from collections import deque
from typing import Optional

import numpy as np

WINDOW = 200  # steps that the usual level is taken from
ENOUGH = 50  # of them, at least
FAR = 6.0  # robust standard deviations


class Spikes:
    """Compares each loss with those before it: z = (ln loss - median) / (1.4826 MAD), of the last 200 ln losses.

    A spike has z > 6. The logarithm, because losses of single steps are skewed (they depend on the timesteps drawn);
    median and MAD (the median distance from the median; times 1.4826 it is a normal distribution's deviation), because
    earlier spikes move them little: Leys et al. 2013, doi 10.1016/j.jesp.2013.03.013.
    """

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=WINDOW)

    def usual_if_spike(self, loss: float) -> Optional[float]:
        """The median of the losses before if this one is a spike, else None. The loss becomes part of the usual."""
        if loss <= 0:  # it has no logarithm, and is no spike
            return None
        log = math.log(loss)
        usual = self._usual(log) if len(self._logs) >= ENOUGH else None
        self._logs.append(log)
        return usual

    def _usual(self, log: float) -> Optional[float]:
        logs = np.array(self._logs)
        median = float(np.median(logs))
        deviation = 1.4826 * float(np.median(np.abs(logs - median)))
        return math.exp(median) if log - median > FAR * max(deviation, 1e-3) else None
