"""The pages of the methods: commands parse, both languages have the same ones, and the flags they name are there."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.parsing import ALIASES, parse_run
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer

ROOT = Path(__file__).parents[2]
METHODS = {
    "dreambooth": DreamBoothTrainer,
    "text_to_image": StableDiffusionTrainer,
    "textual_inversion": TextualInversionTrainer,
}
OTHERS = {"mixed_precision", "offset_noise", "config", "gpus"}  # translated, another script's, the launcher's
every_method = pytest.mark.parametrize("name", METHODS)
every_page = pytest.mark.parametrize("page", [f"{name}/README{zh}.md" for name in METHODS for zh in ("", "_zh")])


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@every_method
def test_commands_parse_and_are_the_same_in_both_languages(name: str) -> None:
    english, chinese = (commands(ROOT / "examples" / name / file) for file in ("README.md", "README_zh.md"))
    assert english == chinese
    demo, *trainings = [shlex.split(line) for line in english if f"examples/{name}/train.sh" in line]
    assert demo == ["sh", f"examples/{name}/train.sh"]
    assert len(trainings) >= 2
    for words in trainings:
        run = parse_run(METHODS[name].own_arguments, words[2:], METHODS[name].defaults)
        run.args.bf16 = False  # there need not be a GPU here
        run.check()
        METHODS[name].check(run)


@every_page
def test_flags_and_links_exist(page: str) -> None:
    file = ROOT / "examples" / page
    text, method = file.read_text(encoding="utf-8"), METHODS[page.split("/")[0]]
    run = parse_run(method.own_arguments, ["--output_dir", "out"], method.defaults)
    known = {f.name for group in run.groups() for f in dataclasses.fields(group)} | {*ALIASES, *OTHERS}
    prose = re.sub(r"^```sh\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`--([a-z0-9_]+)", prose)) <= known
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (file.parent / link).exists(), link
