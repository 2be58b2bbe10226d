"""Pictures that are made of pictures: the conditions of a ControlNet where the data have none.

An annotator gets RGB pixels uint8 [3,H,W] and a seed, and gives uint8 [3,H,W], or float32 [1,H,W] in 0..1 (a depth).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

import numpy as np

from ppsd.data.annotators.canny import canny

Annotate = Callable[[np.ndarray, int], np.ndarray]

ANNOTATORS: Mapping[str, Annotate] = {"canny": canny}
"""By their names on the command line."""
