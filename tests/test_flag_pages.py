"""The page of flags has every flag, where it belongs, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ppsd.trainers import arguments
from ppsd.trainers.arguments.adapter import AdapterArguments
from ppsd.trainers.arguments.cache import CacheArguments
from ppsd.trainers.arguments.captions import CaptionArguments
from ppsd.trainers.arguments.conditions import ConditionArguments
from ppsd.trainers.arguments.controlnet import ControlNetArguments
from ppsd.trainers.arguments.data import DataArguments
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments
from ppsd.trainers.arguments.folder import FolderArguments
from ppsd.trainers.arguments.inpainting import DepthArguments, InpaintingArguments
from ppsd.trainers.arguments.model import ModelArguments
from ppsd.trainers.arguments.optimizers import OptimizerArguments
from ppsd.trainers.arguments.placeholder import PlaceholderArguments
from ppsd.trainers.arguments.text import TextArguments
from ppsd.trainers.arguments.training import SDTrainingArguments
from ppsd.trainers.arguments.validation import ValidationArguments
from ppsd.trainers.foreign_flags import ALIASES, ELSEWHERE
from ppsd.trainers.textual_inversion import TextualInversionArguments
from tests.commands import TOOLS, tool_flags, trainer_flags
from tests.pages import FLAG, FLAG_PAGES, both_flag_pages, headings, sections, slug, text_of

TABLES = {  # section of FLAGS.md, and the dataclass whose own fields it has
    "Model and loss": ModelArguments,
    "Text": TextArguments,
    "New tokens": PlaceholderArguments,
    "Adapters": AdapterArguments,
    "Which data": FolderArguments,
    "Captions": CaptionArguments,
    "Reading, cropping, buckets": DataArguments,
    "Caching": CacheArguments,
    "Training": SDTrainingArguments,
    "Optimizer and memory": OptimizerArguments,
    "Previews, held-out loss, saving by epochs": ValidationArguments,
    "DreamBooth": DreamBoothArguments,
    "Textual inversion": TextualInversionArguments,
    "Conditioning images, masks, depth maps": ConditionArguments,
    "ControlNet": ControlNetArguments,
    "Inpainting": InpaintingArguments,
    "Depth to image": DepthArguments,
}


def section(title: str) -> str:
    """The English text below a heading of the flags."""
    return sections(FLAG_PAGES[0])[[name for _, name in headings(FLAG_PAGES[0])].index(title)]


def first_cells(title: str) -> list[str]:
    """Of the rows about flags of a table of the flags."""
    return [line.split("|")[1] for line in section(title).splitlines() if line.startswith("| `--")]


@both_flag_pages
def test_every_flag_of_the_trainers_is_named(page: Path) -> None:
    assert len(trainer_flags()) > 150
    assert trainer_flags() - set(FLAG.findall(text_of(page))) == set()


@both_flag_pages
def test_every_flag_of_the_tools_is_named(page: Path) -> None:
    assert set().union(*map(tool_flags, TOOLS)) - set(FLAG.findall(text_of(page))) == set()


@pytest.mark.parametrize(("title", "kind"), TABLES.items(), ids=map(slug, TABLES))
def test_each_table_has_the_flags_of_its_dataclass(title: str, kind: Any) -> None:
    own = {f"--{f.name}" for f in fields(kind) if f.name in kind.__annotations__}
    named = {flag for cell in first_cells(title) for flag in FLAG.findall(cell)}
    assert {flag for flag in named if not flag.startswith("--no_")} - {"--config"} == own


@pytest.mark.parametrize(
    ("title", "names"),
    [("Other flags of paddlenlp", arguments.MEANINGLESS), ("Flags of other scripts", ELSEWHERE)],
    ids=["paddlenlp", "others"],
)
def test_what_is_refused_is_what_the_page_says(title: str, names: Sequence[str]) -> None:
    refused = section(title).strip().split("\n\n")[-1]
    assert refused.startswith("Refused")
    listed = refused if title.endswith("paddlenlp") else refused.split("): ")[1]
    assert set(FLAG.findall(listed)) == {f"--{name}" for name in names}


def test_the_table_of_other_scripts_is_that_of_the_parser() -> None:
    rows = [line.split("|")[1:3] for line in section("Flags of other scripts").splitlines() if line.startswith("| `--")]
    table: dict[str, str] = {}
    for theirs, ours in (map(FLAG.findall, row) for row in rows):
        table.update(zip(theirs, ours if len(ours) == len(theirs) else ours * len(theirs)))
    assert table.pop("--mixed_precision") == "--bf16"
    assert table == {f"--{theirs}": f"--{ours}" for theirs, ours in ALIASES.items()}


@both_flag_pages
def test_variables_of_the_recipe_are_named(page: Path) -> None:
    assert {name for name in arguments.RECIPE_VARIABLES if f"`{name}`" not in text_of(page)} == set()
