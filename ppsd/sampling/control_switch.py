"""ControlNets and T2I-Adapters at a pipeline, others by turns, while all else of it stays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import nn

from ppsd.models.control_models import load_control
from ppsd.sampling.control import with_controlnets


class ControlSwitch:
    """pipe: of prompts alone. Those in use are kept in memory, and no others."""

    def __init__(self, pipe: Any, flag: str = "--controlnet") -> None:
        self._pipe, self._flag = pipe, flag
        self._loaded: dict[str, nn.Layer] = {}

    def use(self, paths: Sequence[str]) -> Any:
        """The pipeline with these, in this order; without any, the one that it was. ValueError as `load_control`."""
        self._loaded = {path: layer for path, layer in self._loaded.items() if path in paths}
        for path in paths:
            if path not in self._loaded:
                self._loaded[path] = load_control(path, self._pipe, self._flag)
        if not paths:
            return self._pipe
        return with_controlnets(self._pipe, [self._loaded[path] for path in paths])
