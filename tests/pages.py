"""The pages of the documentation, and their parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README_zh.md"
EXAMPLES = "examples/stable_diffusion"
NEVER_LOSE = (ROOT / EXAMPLES / "NEVER_LOSE_A_STEP.md", ROOT / EXAMPLES / "NEVER_LOSE_A_STEP_zh.md")
FLAG_PAGES = (ROOT / "examples/FLAGS.md", ROOT / "examples/FLAGS_zh.md")
TOOL_PAGES = (ROOT / "tools/README.md", ROOT / "tools/README_zh.md")
SHARED = (ROOT / "examples/README.md", ROOT / "examples/README_zh.md")
METHOD_PAGES = tuple(
    (ROOT / f"examples/{name}/README.md", ROOT / f"examples/{name}/README_zh.md")
    for name in ("text_to_image", "dreambooth", "textual_inversion", "lora", "controlnet", "inpainting", "depth2img")
)
PAGES = ((ENGLISH, CHINESE), SHARED, FLAG_PAGES, *METHOD_PAGES, TOOL_PAGES, NEVER_LOSE)
NOTEBOOK = ROOT / EXAMPLES / "ai_studio.ipynb"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_]*")
SHELL = re.compile(r"^!((?:.*\\\n)*.*)$", flags=re.MULTILINE)  # in a cell
REPOSITORY_PATH = re.compile(r"(?<![\w./-])(?:examples|ppsd|tools|tests|configs)/[\w./-]*\w/?")


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


both_readmes = pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=["en", "zh"])
both_flag_pages = pytest.mark.parametrize("page", FLAG_PAGES, ids=["en", "zh"])
every_page = pytest.mark.parametrize("page", [page for pair in PAGES for page in pair], ids=named)
every_pair = pytest.mark.parametrize(("english", "chinese"), PAGES, ids=named)


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def code_blocks(readme: Path) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text_of(readme), flags=re.DOTALL | re.MULTILINE)


def prose(readme: Path) -> str:
    return re.sub(r"^```\w+\n.*?^```$", "", text_of(readme), flags=re.DOTALL | re.MULTILINE)


def headings(readme: Path) -> list[tuple[int, str]]:
    """Level and title."""
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(readme), flags=re.MULTILINE)]


def sections(readme: Path) -> list[str]:
    """The text below each heading, without code blocks."""
    return re.split(r"^#+ .+$", prose(readme), flags=re.MULTILINE)[1:]


def spans(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def slug(title: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def notebook_cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(text_of(NOTEBOOK))["cells"] if cell["cell_type"] == kind]
