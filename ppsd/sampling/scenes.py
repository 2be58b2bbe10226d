"""Which files each picture is drawn after, of what flags name: --image, --mask, --depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, TypeVar

from ppsd.formats.image_bytes import IMAGE_EXTENSIONS

T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """images: one for each ControlNet, else the picture to begin with."""

    images: tuple[Path, ...] = ()
    mask: Optional[Path] = None
    depth: Optional[Path] = None


def find_scenes(
    images: Sequence[Sequence[str]], masks: Sequence[str], depths: Sequence[str], controlnets: int = 0
) -> list[Scene]:
    """Of files and of folders, which stand for all of their pictures by name; one file goes with all of another flag's.

    images: the words of each --image. With several ControlNets each has as many words as there are of these, else each
    word is a picture of its own. Raises ValueError naming the flag.
    """
    if controlnets > 1:
        return [scene for words in images for scene in _for_several(words, controlnets)]
    found = {
        "--image": [file for words in images for word in words for file in files_of(word, "--image")],
        "--mask": [file for word in masks for file in files_of(word, "--mask")],
        "--depth": [file for word in depths for file in files_of(word, "--depth")],
    }
    columns = matched({flag: files for flag, files in found.items() if files})
    return [
        Scene((row["--image"],) if "--image" in row else (), row.get("--mask"), row.get("--depth")) for row in columns
    ]


def _for_several(words: Sequence[str], controlnets: int) -> list[Scene]:
    if len(words) != controlnets:
        raise ValueError(
            f"--image: {len(words)} of {controlnets} pictures, one for each ControlNet; for further pictures give"
            " --image again, or folders"
        )
    rows = matched({f"--image {word} ({i})": files_of(word, "--image") for i, word in enumerate(words, 1)})
    return [Scene(tuple(row.values())) for row in rows]


def matched(columns: Mapping[str, Sequence[T]]) -> list[dict[str, T]]:
    """The first of each column, the second of each, ...; a single one is the same for all. ValueError for other
    numbers of them. None of anything for no columns."""
    count = max(map(len, columns.values()), default=0)
    if any(len(column) not in (1, count) for column in columns.values()):
        said = ", ".join(f"{name}: {len(column)}" for name, column in columns.items())
        raise ValueError(f"{said}: there must be as many of each, or one for all")
    return [{name: column[i % len(column)] for name, column in columns.items()} for i in range(count)]


def with_prompts(prompts: Sequence[T], scenes: Sequence[Scene]) -> tuple[list[T], list[Scene]]:
    """As diffusers' scripts pair --validation_prompt and --validation_image: one is for all, else one by one."""
    if not scenes:
        return list(prompts), []
    pictures = "--image" if scenes[0].images else "--depth"
    rows = matched({"--prompt": range(len(prompts)), pictures: range(len(scenes))})
    return [prompts[row["--prompt"]] for row in rows], [scenes[row[pictures]] for row in rows]


def files_of(word: str, flag: str) -> list[Path]:
    """The file, or the pictures in the folder, by name. Raises ValueError naming the flag."""
    path = Path(word)
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"{flag}: there is no file {word}")
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix[1:].lower() in IMAGE_EXTENSIONS and file.is_file())
    if not found:
        raise ValueError(f"{flag}: there are no pictures in the folder {word}")
    return found
