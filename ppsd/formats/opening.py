"""Opening what a file list names: a local file, or a URL."""

from __future__ import annotations

import os
from typing import BinaryIO

import fsspec

from ppsd.formats.atomic import PathLike
from ppsd.formats.urls import is_url


def open_input(path: PathLike, seekable: bool = False) -> BinaryIO:
    """A buffered binary file with `peek`. Raises OSError, whatever is wrong with the path or the network."""
    if is_url(os.fspath(path)):
        return fsspec.open(os.fspath(path), "rb").open()
    return open(path, "rb", buffering=2**17)
