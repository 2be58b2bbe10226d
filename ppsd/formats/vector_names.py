"""What the vectors of one learned token are called: <toy>, <toy>_1, <toy>_2, as diffusers has it; and its files."""

from __future__ import annotations

import re
from collections.abc import Collection


def vector_names(token: str, count: int) -> list[str]:
    """The tokens that `count` vectors of `token` stand for."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def vectors_of(known: Collection[str]) -> dict[str, list[str]]:
    """Of the known tokens those that have several vectors, with the names of these."""
    found = {}
    for token in known:
        count = 1
        while f"{token}_{count}" in known:
            count += 1
        if count > 1:
            found[token] = vector_names(token, count)
    return found


def file_stem(token: str) -> str:
    """A token as the name of a file on any system: "<my-toy>" is my-toy."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "", token) or "token"
