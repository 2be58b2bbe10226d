"""Opening what a file list names: a local file, or a URL."""

from __future__ import annotations

from typing import BinaryIO

from ppsd.formats.atomic import PathLike


def open_input(path: PathLike, seekable: bool = False) -> BinaryIO:
    """A buffered binary file with `peek`. Raises OSError, whatever is wrong with the path or the network."""
    return open(path, "rb", buffering=2**17)
