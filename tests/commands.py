"""The commands that the pages show, and the programs that they start."""

from __future__ import annotations

import contextlib
import functools
import io
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from ppsd.trainers.arguments import check_arguments
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.foreign_flags import ALIASES
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.run import Run
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.pages import EXAMPLES, FLAG, PAGES, ROOT, SHELL, code_blocks, named, notebook_cells

TRAINER = f"{EXAMPLES}/train_txt2img_laion400m_trainer.py"
METHODS = {
    TRAINER: StableDiffusionTrainer,
    "examples/text_to_image/train_text_to_image.py": StableDiffusionTrainer,
    "examples/dreambooth/train_dreambooth.py": DreamBoothTrainer,
    "examples/textual_inversion/train_textual_inversion.py": TextualInversionTrainer,
    "examples/lora/train_lora.py": LoRATrainer,
    "examples/controlnet/train_controlnet.py": ControlNetTrainer,
    "examples/inpainting/train_inpainting.py": InpaintingTrainer,
    "examples/depth2img/train_depth.py": DepthTrainer,
}
TOOLS = {  # and the function of each that reads the command line
    f"{EXAMPLES}/eval.py": "parse",
    "tools/annotate.py": "parse_args",
    "tools/cache_latents.py": "parse_args",
    "tools/caption_images.py": "parse_args",
    "tools/compare_checkpoints.py": "parse_args",
    "tools/convert_dataset.py": "parse_args",
    "tools/convert_lora.py": "parse_args",
    "tools/convert_to_diffusers.py": "parse_args",
    "tools/create_pretraining_data.py": "parse_args",
    "tools/extract_lora.py": "parse_args",
    "tools/inspect_data.py": "parse_args",
    "tools/inspect_lora.py": "parse_args",
    "tools/make_demo_data.py": "parse_args",
    "tools/make_demo_model.py": "parse_args",
    "tools/merge_lora.py": "parse_args",
    "tools/plan_memory.py": "main",
    "tools/resize_lora.py": "parse_args",
    "tests/benchmarks/prompt_accuracy.py": "parse_args",
}
CHECKS = {"tests/chaos/__main__.py": "parse", "tests/benchmarks/resume_time.py": "parse_args"}  # flags in their --help
OTHER_PROGRAMS = {
    "visualdl --logdir": {"--logdir"},
    "timeout --preserve-status": {"--preserve"},
    "a file of prompts": {f"--{letter}" for letter in "nwhdls"},
}

NOT_OF_PPSD = (".", "cmp", "diff", "export", "visualdl")


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
    run.args.bf16, run.args.fp16, run.args.frozen_dtype = False, False, "float32"  # there need not be a GPU here
    check_arguments(run.model, run.data, run.args)
    method.check(run)
    return run
