"""The notebooks, executed on small networks, and what of them needs a download, as far as the parser goes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.examples.repository import ROOT, copy_repository, environment, make_base

BASIC = "stable_diffusion"
METHODS = {
    BASIC: StableDiffusionTrainer,
    "text_to_image": StableDiffusionTrainer,
    "dreambooth": DreamBoothTrainer,
    "textual_inversion": TextualInversionTrainer,
    "lora": LoRATrainer,
    "controlnet": ControlNetTrainer,
    "inpainting": InpaintingTrainer,
    "depth2img": DepthTrainer,
}
CONDITIONED = ("controlnet", "inpainting", "depth2img")
"""Methods whose model draws after pictures: their demos end with one grid."""

PICTURES = {BASIC: 6, "text_to_image": 9, "dreambooth": 14, "textual_inversion": 11, "lora": 11}
PICTURES |= {"controlnet": 11, "inpainting": 8, "depth2img": 11}
"""That each notebook shows: of the data, of results, of previews."""

SHELL = re.compile(r"^!((?:.*\\\n)*.*)$", flags=re.MULTILINE)
every_notebook = pytest.mark.parametrize("name", METHODS)


def notebook(name: str) -> dict:
    return json.loads((ROOT / "examples" / name / "ai_studio.ipynb").read_text(encoding="utf-8"))


def cells(name: str, kind: str = "code", tag: str = "") -> list[str]:
    """Sources; with `tag`, of the cells that have it."""
    found = [cell for cell in notebook(name)["cells"] if cell["cell_type"] == kind]
    return ["".join(cell["source"]) for cell in found if not tag or tag in cell["metadata"].get("tags", [])]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_notebook
def test_it_runs_from_the_first_cell_to_the_last(name: str, tmp_path: Path) -> None:
    """Beside a folder of photographs of the user's own."""
    repository = copy_repository(tmp_path)
    if name != BASIC:
        make_base(repository)
    (repository / "photos").mkdir()
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 255, (90, 70 + 10 * i, 3), dtype=np.uint8)
        Image.fromarray(picture).save(repository / "photos" / f"{i}.jpg")
        (repository / "photos" / f"{i}.txt").write_text("a red circle")
    file = repository / "examples" / name / "ai_studio.ipynb"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "examples" / "run_notebook.py"), str(file)],
        cwd=file.parent,
        env=environment(IPYTHONDIR=str(tmp_path / ".ipython"), PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("<IPython.core.display.Image object>") == PICTURES[name]
    assert (repository / "output" / "photos_tiny" / "previews" / "reconstruction.png").is_file()
    if name in CONDITIONED:
        drawn = len(list((repository / "output" / f"demo_{name}").glob("grid-*.png")))
        assert drawn == (12 if name == "controlnet" else 6), "a ControlNet's prompts are drawn without it, too"
    elif name != BASIC:
        before, after = (
            np.asarray(Image.open(repository / "output" / f"demo_{name}" / f"{when}.png"), np.int16)
            for when in ("before", "after")
        )
        assert before.shape == after.shape
        assert np.abs(before - after).max() > 0, "the trained one has drawn the second"


@every_notebook
def test_what_needs_a_download_parses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the cells that are not executed."""
    monkeypatch.chdir(ROOT)
    method, shown = METHODS[name], [SHELL.findall(cell)[0] for cell in cells(name, tag="download")]
    training, drawing = (shlex.split(command.replace("\\\n", " ")) for command in shown)
    assert training[:2] == ["sh", f"examples/{name}/train.sh"]
    run = parse_run(method.own_arguments, training[2:], method.defaults)
    run.args.bf16, run.args.fp16, run.args.frozen_dtype = False, False, "float32"  # there need not be a GPU here
    run.check()
    method.check(run)
    assert drawing[:2] == ["python", "examples/stable_diffusion/eval.py"]
    assert any(word.split("/learned_embeds")[0] == run.args.output_dir for word in drawing)


@every_notebook
def test_it_is_clean(name: str) -> None:
    """Valid for nbformat 4.4, nothing executed, nothing installed but the repository."""
    whole = notebook(name)
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 4)
    for cell in whole["cells"]:
        own = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "metadata", "source"} | own
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    for cell in cells(name):
        compile(SHELL.sub("", cell), "cell", "exec")
    assert cells(name, tag="install") == ['!python -m pip install -q -e . "safetensors<0.5"']


@every_notebook
def test_it_is_in_both_languages(name: str) -> None:
    for cell in cells(name, "markdown"):
        assert "VisualDL\n" in cell or re.search(r"[\u4e00-\u9fff]", cell), cell
        assert re.search(r"^\*.*[a-z]{2,}.*\*$", cell, flags=re.MULTILINE), cell


@every_notebook
def test_paths_exist(name: str) -> None:
    text = "\n".join(cells(name) + cells(name, "markdown"))
    paths = set(re.findall(r"(?<![\w./-])(?:examples|tools|tests|configs)/[\w./-]*\w", text))
    assert f"examples/{name}/train.sh" in paths
    assert {path for path in paths if not (ROOT / path).exists()} == set()
