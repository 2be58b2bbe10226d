"""The pages and the notebook say what is: flags, paths, links and commands, the same in both languages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import pytest

from ppsd.trainers import arguments, exit_codes, nan_guard, signals
from ppsd.trainers.foreign_flags import ELSEWHERE
from tests.commands import (
    CHECKS,
    METHODS,
    TOOLS,
    commands,
    known_flags,
    launcher_flags,
    parsed,
    read_command_line,
    split_command,
    trainer_commands,
)
from tests.pages import (
    ENGLISH,
    EXAMPLES,
    FLAG,
    NEVER_LOSE,
    NOTEBOOK,
    PAGES,
    REPOSITORY_PATH,
    ROOT,
    SHELL,
    TOOL_PAGES,
    both_readmes,
    code_blocks,
    every_page,
    every_pair,
    headings,
    named,
    notebook_cells,
    prose,
    sections,
    slug,
    spans,
    text_of,
)


@every_page
def test_every_flag_named_exists(page: Path) -> None:
    refused = {f"--{name}" for name in (*arguments.MEANINGLESS, *ELSEWHERE)}
    assert set(FLAG.findall(text_of(page))) - known_flags() - refused == set()


def test_environment_variables_are_those_of_the_code() -> None:
    code = "".join(map(text_of, (ROOT / "ppsd").rglob("*.py")))
    pages = "".join(text_of(page) for pair in PAGES for page in pair)
    shown = set(re.findall(r"\b(?:FLAG|AWS|FSSPEC)_[A-Z0-9_]*[A-Z]", pages))
    assert len(shown) > 10
    assert {name for name in shown if name not in code} == set()


@pytest.mark.parametrize("page", TOOL_PAGES, ids=["en", "zh"])
def test_every_reason_for_skipping_is_named(page: Path) -> None:
    code = "".join(map(text_of, (ROOT / "ppsd").rglob("*.py")))
    constants = dict(re.findall(r'^([A-Z][A-Z0-9_]+) = "([a-zA-Z0-9 ]+)"$', code, flags=re.MULTILINE))
    reasons = {text for name, text in constants.items() if re.search(rf"(?:BadRecord|BadTar|\.add)\({name}\b", code)}
    assert len(reasons) > 35
    assert reasons - set(spans(text_of(page))) == set()


def test_commands_for_the_tools_parse() -> None:
    shown = [split_command(words) for words in commands()]
    tools = [(script, flags) for script, _, flags in shown if script in TOOLS or script in CHECKS]
    assert {script for script, _ in tools} >= {*TOOLS, *CHECKS} - {"tools/make_demo_model.py"}
    for script, flags in tools:
        read_command_line(script, flags)
    others = {script for script, _, _ in shown} - {*TOOLS, *CHECKS}
    assert others == {"", *METHODS, "tests/run.sh", "tests/benchmarks/data_pipeline.py"}


def test_launch_options_exist() -> None:
    used = {option for words in commands() for option in split_command(words)[1] if option.startswith("--")}
    assert used >= {"--gpus", "--ips", "--master", "--nnodes", "--rank"}
    assert used <= launcher_flags()


def test_commands_for_the_trainer_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With values that the trainer accepts; `photos.yaml` is the recipe that the README shows."""
    monkeypatch.chdir(ROOT)
    recipe = tmp_path / "photos.yaml"
    recipe.write_text(next(body for language, body in code_blocks(ENGLISH) if language == "yaml"), encoding="utf-8")
    assert len(trainer_commands()) > 20
    for script, flags in trainer_commands():
        parsed(script, [str(recipe) if word == recipe.name else word for word in flags])


@pytest.mark.parametrize("file", [*(page for pair in PAGES for page in pair), NOTEBOOK], ids=named)
def test_repository_paths_exist(file: Path) -> None:
    paths = set(REPOSITORY_PATH.findall(text_of(file)))
    assert len(paths) > 3
    assert {path for path in paths if not (ROOT / path).exists()} == set()


@every_page
def test_local_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\((?!https://)([^)\s]+)\)", prose(page))
    assert len(links) > 3
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in [slug(title) for _, title in headings(target)], link


@every_pair
def test_both_languages_have_the_same_headings(english: Path, chinese: Path) -> None:
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]


@every_pair
def test_both_languages_have_the_same_code_blocks(english: Path, chinese: Path) -> None:
    """But for the comments."""
    blocks, translated = (
        [(language, re.sub(r"\s+# .*", "", body)) for language, body in code_blocks(page)]
        for page in (english, chinese)
    )
    assert blocks == translated


@pytest.mark.parametrize(
    ("english", "chinese", "number"),
    [
        pytest.param(english, chinese, number, id=f"{named(english)}-{slug(title)}")
        for english, chinese in PAGES
        for number, (_, title) in enumerate(headings(english))
    ],
)
def test_both_languages_name_the_same_things(english: Path, chinese: Path, number: int) -> None:
    """Flags, files, variables and values of each section, and as many table rows."""
    original, translated = sections(english)[number], sections(chinese)[number]
    assert sorted(set(spans(original))) == sorted(set(spans(translated)))
    assert len(re.findall(r"^\|", original, re.MULTILINE)) == len(re.findall(r"^\|", translated, re.MULTILINE))


@both_readmes
def test_what_the_demo_prints_is_what_it_prints(readme: Path) -> None:
    shown = next(body for language, body in code_blocks(readme) if "1/3" in body).splitlines()
    headlines = [line.split("output/")[0] for line in shown if re.match(r"\d/3 |Pipeline: |Grid: |Previews: ", line)]
    assert len(headlines) == 6
    script = text_of(ROOT / EXAMPLES / "demo.sh")
    assert [line for line in headlines if line not in script] == []


@pytest.mark.parametrize("page", TOOL_PAGES, ids=["en", "zh"])
def test_the_plan_of_memory_is_what_the_tool_prints(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [body for _, body in code_blocks(page)]
    place = next(i for i, body in enumerate(blocks) if "plan_memory.py" in body)
    read_command_line("tools/plan_memory.py", blocks[place].split()[2:])
    assert capsys.readouterr().out == blocks[place + 1]


@both_readmes
def test_the_table_of_exit_codes_is_that_of_the_code(readme: Path) -> None:
    codes = map(int, re.findall(r"^\| (\d+) \|", text_of(readme), flags=re.MULTILINE))
    assert list(codes) == [0, exit_codes.ERROR, 2, exit_codes.STOPPED, exit_codes.HANG]


@pytest.mark.parametrize(
    ("page", "says"),
    zip(NEVER_LOSE, (("{} in a row", "more than {} s after"), ("连续 {} 次", "相隔 {} 秒"))),
    ids=["en", "zh"],
)
def test_limits_are_those_of_the_code(page: Path, says: Sequence[str]) -> None:
    for words, limit in zip(says, (nan_guard.MOST_SKIPS, int(signals.SAME_REQUEST))):
        assert words.format(limit) in text_of(page)


def pinned(package: str) -> Optional[str]:
    match = re.search(rf'"{package}==([\d.]+)"', text_of(ROOT / "setup.py"))
    return match and match[1]


@both_readmes
def test_versions_are_those_of_setup(readme: Path) -> None:
    for package in ("paddlenlp", "ppdiffusers"):
        assert f"| `{package}` | {pinned(package)} |" in text_of(readme)


def test_the_notebook_is_clean() -> None:
    notebook = json.loads(text_of(NOTEBOOK))
    assert notebook["nbformat"] == 4
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    for cell in notebook_cells("code"):
        compile(SHELL.sub("", cell), "cell", "exec")


def test_the_notebook_is_in_both_languages() -> None:
    for cell in notebook_cells("markdown"):
        assert "VisualDL\n" in cell or re.search(r"[\u4e00-\u9fff]", cell), cell
        assert re.search(r"^\*.*[a-z]{2,}.*\*$", cell, flags=re.MULTILINE), cell


@pytest.mark.parametrize("file", [*(page for pair in PAGES for page in pair), NOTEBOOK], ids=named)
def test_nothing_is_left_to_fill_in(file: Path) -> None:
    assert re.findall(r"@@\w+@@", text_of(file)) == []
