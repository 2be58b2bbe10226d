"""What there is to do in an inspection: the settings of all parts, and the part."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any, Optional

from ppsd.data.config import StreamConfig
from ppsd.data.source import ReadPart


@dataclass(frozen=True)
class Setup:
    """What all parts of an inspection have in common. tokenizer: pickled, b"" for none.

    details: whether to note what only a report needs: looks and tiles. Caption dropout is off: it says nothing of data.
    """

    config: StreamConfig
    tokenizer: bytes = b""
    seed: int = 0
    details: bool = True


@dataclass(frozen=True)
class PartJob:
    """The records of a part whose number n has (n - 1) % every == offset, at most `limit` of them.

    tiles: how many of its samples to show. again: records of it were looked at before.
    """

    source: int
    part: int
    path: str
    read: ReadPart
    repeats: int = 1
    every: int = 1
    offset: int = 0
    limit: Optional[int] = None
    tiles: int = 0
    again: bool = False


def make_setup(config: StreamConfig, tokenizer: Any, seed: int, details: bool) -> Setup:
    """`tokenizer`: the one of the training, or None."""
    blob = io.BytesIO()
    if tokenizer is not None:
        _Pickler(blob).dump(tokenizer)
    return Setup(replace(config, caption_dropout_rate=0.0), blob.getvalue(), seed, details)


class _Pickler(pickle.Pickler):
    """Pickles modules, too: tokenizers of paddlenlp hold one."""

    def reducer_override(self, value: Any) -> Any:
        return (import_module, (value.__name__,)) if isinstance(value, ModuleType) else NotImplemented
