"""How prompts are to be read where files of a run are put to another pipeline: as the run read captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ppsd.sampling.text import TextSettings, read_text_settings

_PARTS = ("adapter", "controlnet")
"""Folders of a checkpoint; the note stands beside them."""


def noted_beside(paths: Iterable[str], asked: TextSettings) -> TextSettings:
    """What is asked for, else what the runs' notes say: of LoRA files, of folders, or of parts of checkpoints.

    Raises ValueError where they do not agree and nothing settles it.
    """
    there = [Path(path) for path in paths if Path(path).exists()]  # the others are hub names
    found = [read_text_settings(run_of(path)) for path in there]
    notes = {note for note in found if note is not None}
    if len(notes) > 1 and None in (asked.clip_skip, asked.max_token_length):
        raise ValueError(
            "the runs behind --lora and --controlnet read captions differently (see the ppsd.json beside each): give"
            " --clip_skip and --max_token_length"
        )
    return asked.or_else(next(iter(notes), TextSettings()))


def run_of(path: Path) -> Path:
    """The folder of a run or checkpoint that a file or part is in, or that is given itself."""
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name in _PARTS else folder
