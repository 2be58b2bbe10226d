"""Which image is meant by a name in a file of tags."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppsd.formats.atomic import PathLike
from ppsd.formats.image_folder import IMAGE_SUFFIXES

_WHAT = "give paths relative to the folder"


def match_tags(
    tags: Mapping[str, Sequence[str]], names: Sequence[str], folder: PathLike
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The tags of each image that has some, and the names for which there is no image.

    names: of the images, relative to `folder`. Names that fit to the letter go first; of others the end must fit.
    Raises ValueError where it cannot be told which image is meant.
    """
    keys = {_plain(key): key for key in tags}
    root = Path(os.path.abspath(folder)).as_posix()
    found: dict[str, str] = {}
    for name in names:
        forms = (f"{root}/{name}", name, os.path.splitext(f"{root}/{name}")[0], os.path.splitext(name)[0])
        exact = next((form for form in forms if form in keys), None)
        if exact is not None:
            found[name] = keys[exact]
    _match_ends(found, [name for name in names if name not in found], set(tags) - set(found.values()), root)
    return {name: tuple(tags[key]) for name, key in found.items()}, sorted(set(tags) - set(found.values()))


def _match_ends(found: dict[str, str], names: Sequence[str], left: set[str], root: str) -> None:
    """Names of images whose path ends like a key, or is the end of one."""
    by_stem: dict[str, list[str]] = {}
    for key in sorted(left):
        by_stem.setdefault(_stem(_plain(key)), []).append(key)
    taken: dict[str, str] = {}
    for name in names:
        fitting = [key for key in by_stem.get(_stem(name), ()) if _ends_fit(_plain(key), name, root)]
        if len(fitting) > 1:
            raise ValueError(f"tags for {fitting[0]} and for {fitting[1]}: either may be meant for {name}; {_WHAT}")
        if fitting and (other := taken.setdefault(fitting[0], name)) != name:
            raise ValueError(f"tags for {fitting[0]}: {other} and {name} may be meant; {_WHAT}")
        if fitting:
            found[name] = fitting[0]


def _ends_fit(key: str, name: str, root: str) -> bool:
    if os.path.splitext(key)[1].lower() not in IMAGE_SUFFIXES:
        name = os.path.splitext(name)[0]
    return f"{root}/{name}".endswith(f"/{key}") or key.endswith(f"/{name}")


def _plain(key: str) -> str:
    return os.path.normpath(key.replace("\\", "/"))


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name
