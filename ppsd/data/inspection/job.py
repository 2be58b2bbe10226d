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
from ppsd.formats.urls import shown_url


@dataclass(frozen=True)
class Setup:
    """What all parts of an inspection have in common. tokenizer: pickled, b"" for none.

    details: whether to note what only a report needs: looks and tiles. Caption dropout is off: it says nothing of data.
    """

    config: StreamConfig
    tokenizer: bytes = b""
    seed: int = 0
    details: bool = True


class RecordName(str):
    """The path of a part that is one record of an indexed source: its name, and its number there."""

    index_in_source: int

    def __new__(cls, name: str, index: int) -> RecordName:
        made = super().__new__(cls, name)
        made.index_in_source = index
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordName, (str(self), self.index_in_source)


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

    def where(self, number: int) -> str:
        """The name of a record."""
        return str(self.path) if isinstance(self.path, RecordName) else f"{shown_url(self.path)}:{number}"


def make_setup(config: StreamConfig, tokenizer: Any, seed: int, details: bool) -> Setup:
    """`tokenizer`: the one of the training, or None.

    What an annotator makes tells nothing of the data, so that a network, which worker processes cannot run, does not.
    """
    if config.annotator_model is not None:
        config = replace(config, annotator="grey", annotator_model=None)
    blob = io.BytesIO()
    if tokenizer is not None:
        _Pickler(blob).dump(tokenizer)
    return Setup(replace(config, caption_dropout_rate=0.0), blob.getvalue(), seed, details)


class _Pickler(pickle.Pickler):
    """Pickles modules, too: tokenizers of paddlenlp hold one."""

    def reducer_override(self, value: Any) -> Any:
        return (import_module, (value.__name__,)) if isinstance(value, ModuleType) else NotImplemented
