"""The methods' train.sh without flags: which commands it runs, and that each of them is one that its program takes.

`python` is a stand-in here that notes its words; tests/examples/test_notebooks.py runs the same scripts for real.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.examples.repository import ROOT, copy_repository, environment

METHODS = {
    "text_to_image": (StableDiffusionTrainer, "stripes"),
    "dreambooth": (DreamBoothTrainer, "ring"),
    "textual_inversion": (TextualInversionTrainer, "star"),
    "lora": (LoRATrainer, "stripes"),
    "controlnet": (ControlNetTrainer, "conditions"),
    "inpainting": (InpaintingTrainer, "conditions"),
    "depth2img": (DepthTrainer, "conditions"),
}
CONDITIONED = {"controlnet": "image", "inpainting": "image", "depth2img": "depth"}
"""Methods whose model draws after pictures, and the flag of eval.py that names them."""

PROMPTED = [name for name in METHODS if name not in CONDITIONED]
BASE = ["make_demo_data.py", "create_pretraining_data.py", "train_txt2img_laion400m_trainer.py", "eval.py"]
every_method = pytest.mark.parametrize("name", METHODS)

# -c and - are questions of tools/environment.sh: is this Python recent enough, does it have ppsd?
STAND_IN = """#!/bin/sh
case "$1" in -c | -) exit 0 ;; esac
for word; do printf '%s\\n' "$word"; done >>"$CALLS"
echo >>"$CALLS"
case "$1" in
*/$FAILS) exit 3 ;;
*/train_txt2img_laion400m_trainer.py) mkdir -p "$BASE_MODEL" && touch "$BASE_MODEL/model_index.json" ;;
esac
"""


class Copy:
    """A repository of its own, whose name has a space in it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.calls, commands = folder / "a copy", folder / "calls", folder / "bin"
        for part in (self.root, commands):
            part.mkdir()
        copy_repository(self.root)
        (commands / "python").write_text(STAND_IN)
        (commands / "python").chmod(0o755)
        self.base = self.root / "output" / "demo" / "run"
        self.environment = environment(CALLS=str(self.calls), BASE_MODEL=str(self.base))
        self.environment["PATH"] = f"{commands}:{self.environment['PATH']}"

    def run(self, name: str, *flags: str, fails: str = "nothing") -> subprocess.CompletedProcess[str]:
        """Called from another folder."""
        command = ["sh", str(self.root / "examples" / name / "train.sh"), *flags]
        variables = {**self.environment, "FAILS": fails}
        return subprocess.run(command, cwd=self.root.parent, env=variables, capture_output=True, text=True)

    def called(self) -> list[list[str]]:
        return [call.splitlines() for call in self.calls.read_text().split("\n\n")[:-1]]

    def programs(self) -> list[str]:
        return [Path(words[0]).name for words in self.called()]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def trainer_of(name: str) -> str:
    return f"train_{'depth' if name == 'depth2img' else name}.py"


def steps_of(name: str) -> list[str]:
    """The programs of the demo, once there is a model to begin with: pictures to learn from, others to draw after."""
    made, drawn = (2, 1) if name in CONDITIONED else (1, 2)
    return ["make_demo_data.py"] * made + [trainer_of(name)] + ["eval.py"] * drawn


def parsed(script: Path, words: list[str], function: str, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    return runpy.run_path(str(script), run_name="tested")[function]()


@every_method
def test_the_model_to_begin_with_is_made_when_it_is_missing(copy: Copy, name: str) -> None:
    assert copy.run(name).returncode == 0
    rest = steps_of(name)
    assert copy.programs() == [*BASE, *rest]
    copy.calls.unlink()
    done = copy.run(name)
    assert done.returncode == 0
    assert copy.programs() == rest
    shown = [line.split(":")[0] for line in done.stdout.splitlines()]
    if name in CONDITIONED:
        assert shown[-3:] == ["Trained", "Grid", "Previews"]
    else:
        assert shown[-4:] == ["LoRA" if name == "lora" else "Pipeline", "Before", "After", "Previews"]


@pytest.mark.parametrize("name", PROMPTED)
def test_its_commands_are_accepted(copy: Copy, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the recipe as it is shipped, the pictures that were made, and the model that was trained."""
    method, kind = METHODS[name]
    assert copy.run(name).returncode == 0
    data, training, before, after = copy.called()[len(BASE) :]
    made = parsed(ROOT / "tools" / "make_demo_data.py", data[1:], "parse_args", monkeypatch)
    assert made.kind == kind
    words = [word.replace(f"{copy.root}/configs", f"{ROOT}/configs") for word in training[1:]]
    run = parse_run(method.own_arguments, words, method.defaults)
    run.check()
    method.check(run)
    assert run.args.max_steps >= 100, "the recipe"
    folder = run.own.instance_data_dir if name == "dreambooth" else run.data.train_data_dir
    assert (folder, run.model.pretrained_model_name_or_path) == (made.output_path, str(copy.base))
    drawn = [
        parsed(ROOT / "examples/stable_diffusion/eval.py", words[1:], "parse", monkeypatch) for words in (before, after)
    ]
    base, output = str(copy.base), run.args.output_dir
    lora = name == "lora"  # one file beside the base, named after the folder it is in
    assert [each.pipeline for each in drawn] == [base, base if lora else output]
    assert [each.lora for each in drawn] == [[["none"]], [[f"{output}/run.safetensors" if lora else "none"]]]
    assert drawn[0].prompt == drawn[1].prompt
    assert drawn[0].seed == drawn[1].seed
    subject = {"dreambooth": "sks", "textual_inversion": "<toy>"}.get(name, "circle")
    assert any(subject in prompt.split() for prompt in drawn[0].prompt)


@pytest.mark.parametrize("name", CONDITIONED)
def test_what_is_drawn_after_was_not_learned_from(copy: Copy, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe as it is shipped; previews and the grid see other pictures than training, as many as prompts."""
    method, kind = METHODS[name]
    assert copy.run(name).returncode == 0
    data, new, training, drawing = copy.called()[len(BASE) :]
    made, others = (
        parsed(ROOT / "tools/make_demo_data.py", words[1:], "parse_args", monkeypatch) for words in (data, new)
    )
    assert (made.kind, others.kind) == (kind, kind)
    assert made.seed != others.seed
    words = [word.replace(f"{copy.root}/configs", f"{ROOT}/configs") for word in training[1:]]
    run = parse_run(method.own_arguments, words, method.defaults)
    run.check()
    method.check(run)
    assert run.args.max_steps >= 100, "the recipe"
    assert (run.data.train_data_dir, run.model.pretrained_model_name_or_path) == (made.output_path, str(copy.base))
    shown = [files for files in method.validation_files(run) if files.name != "mask"]
    assert [len(files.paths or []) for files in shown] == [len(run.args.validation_prompts)]
    drawn = parsed(ROOT / "examples/stable_diffusion/eval.py", drawing[1:], "parse", monkeypatch)
    files = drawn.image[0] if CONDITIONED[name] == "image" else drawn.depth
    assert len(files) == len(drawn.prompt)
    assert all(path.startswith(others.output_path) for path in [*files, *(shown[0].paths or [])])
    parts = [drawn.pipeline, *(word for words in drawn.controlnet for word in words)]
    assert parts == ([str(copy.base), "none", run.args.output_dir] if name == "controlnet" else [run.args.output_dir])


@every_method
@pytest.mark.parametrize("step", ["create_pretraining_data.py", "make_demo_data.py", "train_METHOD.py"])
def test_what_fails_ends_it(copy: Copy, name: str, step: str) -> None:
    program = step.replace("train_METHOD.py", trainer_of(name))
    done = copy.run(name, fails=program)
    assert done.returncode == 3
    assert copy.programs()[-1] == program
    assert "After:" not in done.stdout
    assert "Grid: " not in done.stdout.split("2/4")[-1]


@every_method
def test_flags_are_for_the_trainer_alone(copy: Copy, name: str) -> None:
    """A value with a space in it stays one; the exit code is the trainer's."""
    done = copy.run(name, "--instance_prompt", "a b", "--do_train", fails=trainer_of(name))
    assert done.returncode == 3
    script = copy.root / "examples" / name / trainer_of(name)
    assert copy.called() == [[str(script), "--instance_prompt", "a b", "--do_train"]]
    assert not (copy.root / "output").exists()
