"""Which image is meant by a name in a file of tags."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ppsd.formats.atomic import PathLike
from ppsd.formats.image_folder import IMAGE_SUFFIXES

_WHAT = "give paths relative to the folder"


def match_tags(
    tags: Mapping[str, Sequence[str]], names: Sequence[str], folder: PathLike
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The tags of each image that has some, and the names for which there is no image.

    names: of the images, relative to `folder`. Names that fit to the letter go first; of others the end must fit.
    Raises ValueError where it cannot be told which image is meant, and for two names of one file.
    """
    keys = _plain_keys(tags)
    root = Path(os.path.abspath(folder)).as_posix()
    found: dict[str, str] = {}
    for name in names:
        forms = (f"{root}/{name}", name, os.path.splitext(f"{root}/{name}")[0], os.path.splitext(name)[0])
        exact = next((form for form in forms if form in keys), None)
        if exact is not None:
            found[name] = keys[exact]
    used = set(found.values())
    left = {plain: key for plain, key in keys.items() if key not in used}
    _match_ends(found, [name for name in names if name not in found], left, root)
    return {name: tuple(tags[key]) for name, key in found.items()}, sorted(set(tags) - set(found.values()))


def _plain_keys(tags: Iterable[str]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for key in tags:
        if (other := keys.setdefault(_plain(key), key)) != key:
            raise ValueError(f"tags for {other} and for {key}: both name one file; put its tags into one place")
    return keys


def _match_ends(found: dict[str, str], names: Sequence[str], left: Mapping[str, str], root: str) -> None:
    """Names of images whose path ends like a key, or is the end of one."""
    fitting = _fitting(names, left, root)
    taken: dict[str, str] = {}
    for name in names:
        keys = sorted(fitting[name])
        if len(keys) > 1:
            raise ValueError(f"tags for {keys[0]} and for {keys[1]}: either may be meant for {name}; {_WHAT}")
        if keys and (other := taken.setdefault(keys[0], name)) != name:
            raise ValueError(f"tags for {keys[0]}: {other} and {name} may be meant; {_WHAT}")
        if keys:
            found[name] = keys[0]


def _fitting(names: Sequence[str], left: Mapping[str, str], root: str) -> dict[str, set[str]]:
    """Of each name the keys of which one ends like the other. Names are compared with keys that have the extension of
    an image; without theirs, with keys that have none."""
    fitting: dict[str, set[str]] = {name: set() for name in names}
    by_form: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        for has_extension, form in ((True, name), (False, os.path.splitext(name)[0])):
            by_form.setdefault((has_extension, form), []).append(name)
            for end in _ends(f"{root}/{form}"):
                if end in left and _is_image(end) == has_extension:
                    fitting[name].add(left[end])
    for plain, key in left.items():
        for end in _ends(plain):
            for name in by_form.get((_is_image(plain), end), ()):
                fitting[name].add(key)
    return fitting


def _ends(path: str) -> Iterator[str]:
    """a/b/c -> b/c, c"""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def _plain(key: str) -> str:
    return os.path.normpath(key.replace("\\", "/"))
