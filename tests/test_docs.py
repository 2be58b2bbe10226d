"""The pages and the notebook say what is: flags, paths, links and commands, the same in both languages."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from ppsd.trainers import arguments, exit_codes, nan_guard, signals
from ppsd.trainers.arguments import check_arguments
from ppsd.trainers.arguments.cache import CacheArguments
from ppsd.trainers.arguments.captions import CaptionArguments
from ppsd.trainers.arguments.data import DataArguments
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments
from ppsd.trainers.arguments.folder import FolderArguments
from ppsd.trainers.arguments.model import ModelArguments
from ppsd.trainers.arguments.optimizers import OptimizerArguments
from ppsd.trainers.arguments.placeholder import PlaceholderArguments
from ppsd.trainers.arguments.text import TextArguments
from ppsd.trainers.arguments.training import SDTrainingArguments
from ppsd.trainers.arguments.validation import ValidationArguments
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.parsing import ALIASES, ELSEWHERE, parse_run
from ppsd.trainers.run import Run
from ppsd.trainers.textual_inversion import TextualInversionArguments, TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README_zh.md"
EXAMPLES = "examples/stable_diffusion"
NEVER_LOSE = (ROOT / EXAMPLES / "NEVER_LOSE_A_STEP.md", ROOT / EXAMPLES / "NEVER_LOSE_A_STEP_zh.md")
FLAG_PAGES = (ROOT / "examples/FLAGS.md", ROOT / "examples/FLAGS_zh.md")
TOOL_PAGES = (ROOT / "tools/README.md", ROOT / "tools/README_zh.md")
SHARED = (ROOT / "examples/README.md", ROOT / "examples/README_zh.md")
METHOD_PAGES = tuple(
    (ROOT / f"examples/{name}/README.md", ROOT / f"examples/{name}/README_zh.md")
    for name in ("text_to_image", "dreambooth", "textual_inversion")
)
PAGES = ((ENGLISH, CHINESE), SHARED, FLAG_PAGES, *METHOD_PAGES, TOOL_PAGES, NEVER_LOSE)
NOTEBOOK = ROOT / EXAMPLES / "ai_studio.ipynb"
TRAINER = f"{EXAMPLES}/train_txt2img_laion400m_trainer.py"
METHODS = {
    TRAINER: StableDiffusionTrainer,
    "examples/text_to_image/train_text_to_image.py": StableDiffusionTrainer,
    "examples/dreambooth/train_dreambooth.py": DreamBoothTrainer,
    "examples/textual_inversion/train_textual_inversion.py": TextualInversionTrainer,
}
TABLES = {  # section of FLAGS.md, and the dataclass whose own fields it has
    "Model and loss": ModelArguments,
    "Text": TextArguments,
    "New tokens": PlaceholderArguments,
    "Which data": FolderArguments,
    "Captions": CaptionArguments,
    "Reading, cropping, buckets": DataArguments,
    "Caching": CacheArguments,
    "Training": SDTrainingArguments,
    "Optimizer and memory": OptimizerArguments,
    "Previews, held-out loss, saving by epochs": ValidationArguments,
    "DreamBooth": DreamBoothArguments,
    "Textual inversion": TextualInversionArguments,
}
TOOLS = {  # and the function of each that reads the command line
    f"{EXAMPLES}/eval.py": "parse",
    "tools/cache_latents.py": "parse_args",
    "tools/compare_checkpoints.py": "parse_args",
    "tools/convert_dataset.py": "parse_args",
    "tools/convert_to_diffusers.py": "parse_args",
    "tools/create_pretraining_data.py": "parse_args",
    "tools/inspect_data.py": "parse_args",
    "tools/make_demo_data.py": "parse_args",
    "tools/make_demo_model.py": "parse_args",
    "tools/plan_memory.py": "main",
    "tests/benchmarks/prompt_accuracy.py": "parse_args",
}
CHECKS = {"tests/chaos/__main__.py": "parse", "tests/benchmarks/resume_time.py": "parse_args"}  # flags in their --help
OTHER_PROGRAMS = {
    "visualdl --logdir": {"--logdir"},
    "timeout --preserve-status": {"--preserve"},
    "a file of prompts": {f"--{letter}" for letter in "nwhdls"},
}

NOT_OF_PPSD = (".", "cmp", "diff", "export", "visualdl")

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


def section(title: str) -> str:
    """The English text below a heading of the flags."""
    return sections(FLAG_PAGES[0])[[name for _, name in headings(FLAG_PAGES[0])].index(title)]


def first_cells(title: str) -> list[str]:
    """Of the rows about flags of a table of the flags."""
    return [line.split("|")[1] for line in section(title).splitlines() if line.startswith("| `--")]


def spans(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def slug(title: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def notebook_cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(text_of(NOTEBOOK))["cells"] if cell["cell_type"] == kind]


@functools.cache
def trainer_flags() -> set[str]:
    """Those that `--help` of the training scripts lists."""
    out = io.StringIO()
    for method in METHODS.values():
        with pytest.raises(SystemExit), contextlib.redirect_stdout(out):
            parse_run(method.own_arguments, ["--help"])
    return set(FLAG.findall(out.getvalue())) - {"--help"}


@functools.cache
def tool_flags(script: str) -> set[str]:
    out = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(out):
        read_command_line(script, ["--help"])
    return set(FLAG.findall(out.getvalue())) - {"--help"}


@functools.cache
def launcher_flags() -> set[str]:
    command = [sys.executable, "-m", "paddle.distributed.launch", "--help"]
    return set(FLAG.findall(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def read_command_line(script: str, argv: Sequence[str]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *argv])
        return parser_of(script)()


@functools.cache
def parser_of(script: str) -> Callable[[], Any]:
    return runpy.run_path(str(ROOT / script), run_name="documented")[{**TOOLS, **CHECKS}[script]]


def known_flags() -> set[str]:
    found = {"--help", "--mixed_precision"} | trainer_flags() | launcher_flags() | {f"--{name}" for name in ALIASES}
    return found.union(*map(tool_flags, [*TOOLS, *CHECKS]), *OTHER_PROGRAMS.values())


def commands() -> Iterator[list[str]]:
    """The words of every command that the pages and the notebook show."""
    pages = [page for pair in PAGES for page in pair]
    texts = [body for page in pages for language, body in code_blocks(page) if language == "sh"]
    for cell in notebook_cells("code"):
        texts += SHELL.findall(cell)
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip():
                yield shlex.split(line)


def split_command(words: list[str]) -> tuple[str, list[str], list[str]]:
    """(script, options of the launcher, flags of the script); the script is "" for a command that is not of ppsd."""
    if words[0] == "timeout":
        words = words[words.index("sh") :]
    if (words[:2] == ["python", "-m"] and words[2] in ("pip", "pytest")) or words[0] in NOT_OF_PPSD:
        return "", [], []
    for launcher in ("paddle.distributed.launch", "ppsd.launch"):
        if launcher in words:
            place = next(i for i, word in enumerate(words) if word in (*METHODS, *TOOLS))
            return words[place], words[words.index(launcher) + 1 : place], words[place + 1 :]
    if words[:2] == ["python", "-m"]:
        module = ROOT / words[2].replace(".", "/")
        return named(module / "__main__.py" if module.is_dir() else module.with_suffix(".py")), [], words[3:]
    script, rest = words[1], words[2:]
    trainer = next((name for name in METHODS if script.startswith(f"{Path(name).parent}/train")), None)
    if trainer is None or script == trainer:
        return script, [], rest
    options, flags = (rest[: rest.index("--")], rest[rest.index("--") + 1 :]) if "--" in rest else ([], rest)
    assert not options or script.startswith(f"{EXAMPLES}/train_multi_"), f"{script} takes no launch options"
    return trainer, options, flags


def trainer_commands() -> list[tuple[str, list[str]]]:
    """Script and flags."""
    split = [split_command(words) for words in commands()]
    return [(script, flags) for script, _, flags in split if script in METHODS and flags and flags != ["--help"]]


def parsed(script: str, flags: Sequence[str]) -> Run:
    """The flags, checked as far as that is possible without the data."""
    method = METHODS[script]
    run = parse_run(method.own_arguments, flags, method.defaults)
    run.args.bf16 = False  # there need not be a GPU here
    check_arguments(run.model, run.data, run.args)
    method.check(run)
    return run


@both_flag_pages
def test_every_flag_of_the_trainers_is_named(page: Path) -> None:
    assert len(trainer_flags()) > 150
    assert trainer_flags() - set(FLAG.findall(text_of(page))) == set()


@both_flag_pages
def test_every_flag_of_the_tools_is_named(page: Path) -> None:
    assert set().union(*map(tool_flags, TOOLS)) - set(FLAG.findall(text_of(page))) == set()


@every_page
def test_every_flag_named_exists(page: Path) -> None:
    refused = {f"--{name}" for name in (*arguments.MEANINGLESS, *ELSEWHERE)}
    assert set(FLAG.findall(text_of(page))) - known_flags() - refused == set()


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


def test_environment_variables_are_those_of_the_code() -> None:
    code = "".join(map(text_of, (ROOT / "ppsd").rglob("*.py")))
    pages = "".join(text_of(page) for pair in PAGES for page in pair)
    shown = set(re.findall(r"\b(?:FLAG|AWS|FSSPEC)_[A-Z0-9_]*[A-Z]", pages))
    assert len(shown) > 10
    assert {name for name in shown if name not in code} == set()


@both_flag_pages
def test_variables_of_the_recipe_are_named(page: Path) -> None:
    assert {name for name in arguments.RECIPE_VARIABLES if f"`{name}`" not in text_of(page)} == set()


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
