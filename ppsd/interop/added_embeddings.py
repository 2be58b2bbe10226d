"""Learned embeddings from files, in a pipeline that draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppsd.formats.atomic import PathLike
from ppsd.interop.embeddings import load_embeddings
from ppsd.models.placeholder import add_rows


def add_files(pipe: Any, files: Sequence[PathLike]) -> list[str]:
    """Have a pipeline's tokenizer and text encoder know the tokens of these files; returns the tokens.

    A prompt says `<toy>` for all vectors of that token. Raises ValueError naming the file.
    """
    tokens: list[str] = []
    for file in files:
        rows: dict[str, np.ndarray] = dict(load_embeddings(file))
        add_rows(pipe.tokenizer, pipe.text_encoder, rows, str(file))
        tokens += rows
    return tokens
