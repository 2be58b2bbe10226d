"""What to draw: prompts, each perhaps with settings of its own, and the files that kohya's scripts read them from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

Draw = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Prompt:
    """None: what the others have, too. width, height in pixels; scale: of the guidance; steps: of denoising."""

    text: str
    negative: str = ""
    width: Optional[int] = None
    height: Optional[int] = None
    seed: Optional[int] = None
    scale: Optional[float] = None
    steps: Optional[int] = None


def read_prompts(path: str, flag: str) -> list[Prompt]:
    """One prompt a line; empty lines and those that start with # are none. Options as in `parse_prompt`.

    Raises ValueError naming the flag, the file and the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"{flag}: cannot read {path}: {reason}") from error
    if Path(path).suffix in (".json", ".toml"):
        raise ValueError(f"{flag}: {path} must be a text file with one prompt a line, e.g. `a red cat --w 512 --d 1`")
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                prompts.append(parse_prompt(line.strip()))
            except ValueError as error:
                raise ValueError(f"{flag}: {path}, line {number}: {error}") from error
    if not prompts:
        raise ValueError(f"{flag}: {path} has no prompt in it")
    return prompts


def parse_prompt(line: str) -> Prompt:
    """`text --n negative --w width --h height --d seed --l scale --s steps`, each option once at most, in any order.

    As kohya's line_to_prompt_dict has it (sd-scripts, library/train_util.py), but ValueError for what it passes over.
    """
    text, *options = re.split(r"(?:^|\s+)--", line)
    values: dict[str, Any] = {}
    for option in options:
        letter, _, value = option.partition(" ")
        name, convert = _option(letter.lower(), value.strip())
        if name in values:
            raise ValueError(f"--{letter} is given twice")
        try:
            values[name] = convert(value.strip())
        except ValueError as error:
            raise ValueError(f"--{letter} {value.strip()}: {error}") from error
    return Prompt(text.strip(), **values)


def _option(letter: str, value: str) -> tuple[str, Callable[[str], Any]]:
    if letter in _OPTIONS:
        return _OPTIONS[letter]
    if letter == "ss":
        raise ValueError(f"--ss {value}: pictures are drawn with the scheduler of the pipeline; leave it out")
    if letter == "cn":
        raise ValueError(f"--cn {value}: there is no ControlNet here; leave it out")
    raise ValueError(f"--{letter}: known are {', '.join(f'--{known}' for known in _OPTIONS)}")


def _side(text: str) -> int:
    side = _whole(text)
    if side < 8 or side % 8:
        raise ValueError("it must be a multiple of 8 pixels")
    return side


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("it must be a whole number")
    return int(text)


def _steps(text: str) -> int:
    if not 1 <= _whole(text) <= 1000:
        raise ValueError("it must be 1 to 1000 steps")
    return int(text)


def _scale(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        raise ValueError("it must be a number, at least 0")
    return float(text)


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "n": ("negative", str),
    "w": ("width", _side),
    "h": ("height", _side),
    "d": ("seed", _whole),
    "l": ("scale", _scale),
    "s": ("steps", _steps),
}


def draw_prompts(
    draw: Draw,
    prompts: Sequence[Prompt],
    count: int = 1,
    *,
    seed: int,
    told: Optional[Mapping[str, np.ndarray]] = None,
    **settings: Any,
) -> list[list[np.ndarray]]:
    """`count` pictures uint8 [H,W,3] of each prompt, in its order.

    draw: `ppsd.sampling.pipeline.generate` with its pipeline bound; settings: its others, where a prompt has none of
    its own (guidance_scale, num_inference_steps, height, width); told: arrays [N,...] of what belongs to the prompts,
    which `draw` takes by these names. Prompts with the same settings are drawn together.
    Noise: that of `seed` and the number of the picture among those drawn together; a prompt with its own seed, of that
    and the number among its own.
    """
    drawn: dict[int, list[np.ndarray]] = {i: [] for i in range(len(prompts))}
    for members in _alike(prompts):
        first = prompts[members[0]]
        rows = [i for _ in range(count) for i in members]
        own = {**settings, **_settings(first), **{name: values[rows] for name, values in (told or {}).items()}}
        pictures = draw([prompts[i].text for i in rows], **own, seed=seed if first.seed is None else first.seed)
        for number, picture in enumerate(pictures):
            drawn[members[number % len(members)]].append(picture)
    return [drawn[i] for i in range(len(prompts))]


def _alike(prompts: Sequence[Prompt]) -> Iterable[list[int]]:
    """Prompts that are drawn together: without a seed of their own and with the same settings."""
    groups: dict[Any, list[int]] = {}
    for i, prompt in enumerate(prompts):
        key = i if prompt.seed is not None else tuple(sorted(_settings(prompt).items()))
        groups.setdefault(key, []).append(i)
    return groups.values()


def _settings(prompt: Prompt) -> dict[str, Any]:
    given = {
        "negative_prompt": prompt.negative or None,
        "width": prompt.width,
        "height": prompt.height,
        "guidance_scale": prompt.scale,
        "num_inference_steps": prompt.steps,
    }
    return {name: value for name, value in given.items() if value is not None}
