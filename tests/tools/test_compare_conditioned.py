"""tools/compare_checkpoints.py with runs that draw after pictures: ControlNets, T2I-Adapters, inpainting, depth."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsd.models.control_models import load_control
from ppsd.models.widening import DEPTH, INPAINTING
from ppsd.sampling.control import generate_controlled, with_controlnets
from ppsd.sampling.depth import generate_from_depth
from ppsd.sampling.inpainting import generate_inpainted
from ppsd.sampling.pipeline import generate, load_pipeline
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from tests.trainers.condition_runs import NARROW, learn, scenes
from tests.trainers.conftest import Run, tiny_run  # noqa: F401  a fixture
from tools.compare_checkpoints import main

SETTINGS: dict[str, Any] = {"guidance_scale": 2.0, "num_inference_steps": 2, "seed": 3}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
PROMPTS = ["a red circle", "a blue square"]
QUICK = {"learning_rate": 3e-2, "image_logging_steps": -1, "caption_dropout_rate": 0.0}


@pytest.fixture(scope="module")
def folder(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Runs, and pictures of 64 x 64 pixels."""
    made = tmp_path_factory.mktemp("runs")
    data = scenes(made / "set")
    control = {**QUICK, **NARROW, "max_steps": 2, "save_steps": 1, "use_ema": True}
    learn(tiny_run, made / "control", ControlNetTrainer, data, **control)
    adapters = {"network_module": "lora", "network_dim": 2}
    learn(tiny_run, made / "lora", ControlNetTrainer, data, **{**QUICK, **NARROW, **adapters, "max_steps": 1})
    whole = {"sd_locked": False, "only_save_updated_model": False, "max_steps": 1}
    learn(tiny_run, made / "whole", ControlNetTrainer, data, **{**QUICK, **NARROW, **whole})
    learn(tiny_run, made / "t2i", ControlNetTrainer, data, **QUICK, control_type="t2i_adapter", max_steps=1)
    learn(tiny_run, made / "inpainting", InpaintingTrainer, data, **QUICK, max_steps=1)
    learn(tiny_run, made / "depth", DepthTrainer, data, **QUICK, max_steps=1)
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(random.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(made / f"{name}.png")
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(made / "half.png")
    return made


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def compare(output: Path, *flags: str) -> tuple[list[str], np.ndarray]:
    """Heads of the rows, and the pictures [rows, columns, H, W, 3] of the page."""
    assert main([*flags, *FLAGS, "--prompts", *PROMPTS, "--output", str(output / "grid.png")]) == 0
    text = (output / "grid.html").read_text(encoding="utf-8")
    found = [pixels(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'base64,([^"]+)"', text)]
    heads = re.findall(r"<tr><th>([^<]+)</th>", text)
    return heads, np.stack(found).reshape(len(heads), len(PROMPTS), 64, 64, 3)


def pixels(file: Any) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def controlled(pipeline: str, place: str, told: np.ndarray, variant: Any = None) -> np.ndarray:
    pipe = load_pipeline(pipeline)
    return generate_controlled(
        with_controlnets(pipe, [load_control(place, pipe, "x", variant)]), PROMPTS, [told], **SETTINGS
    )


def test_progress_of_a_controlnet(tiny_run: Run, tmp_path: Path) -> None:  # noqa: F811
    heads, drawn = compare(tmp_path, "control", "--base", "--ema", "--image", "one.png", "two.png")
    base, told = str(tiny_run.pipeline), np.stack([pixels("one.png"), pixels("two.png")])
    steps = ["checkpoint-1", "checkpoint-1 (EMA)", "checkpoint-2", "checkpoint-2 (EMA)"]
    assert heads == ["drawn after", f"base: {base}", *steps]
    np.testing.assert_array_equal(drawn[0], told)
    np.testing.assert_array_equal(drawn[1], generate(load_pipeline(base), PROMPTS, **SETTINGS))
    for row, (step, variant) in zip(drawn[2:], ((1, None), (1, "ema"), (2, None), (2, "ema"))):
        expected = controlled(base, f"control/checkpoint-{step}/controlnet", told, variant)
        np.testing.assert_array_equal(row, expected, err_msg=f"{step} {variant}")
    assert len(np.unique(drawn[1:].reshape(5, -1), axis=0)) == 5


def test_an_adapter_and_a_whole_checkpoint_and_its_export(tiny_run: Run, tmp_path: Path) -> None:  # noqa: F811
    """The UNet's decoder, which was trained, too, is the checkpoint's."""
    told = np.stack([pixels("one.png")] * 2)
    heads, drawn = compare(tmp_path, "t2i/checkpoint-1", "whole/checkpoint-1", "--image", "one.png")
    assert heads == ["drawn after", "t2i/checkpoint-1", "whole/checkpoint-1"]
    np.testing.assert_array_equal(drawn[1], controlled(str(tiny_run.pipeline), "t2i/checkpoint-1/controlnet", told))
    whole = controlled("whole/checkpoint-1", "whole/checkpoint-1/controlnet", told)
    np.testing.assert_array_equal(drawn[2], whole)
    assert (whole != controlled(str(tiny_run.pipeline), "whole/checkpoint-1/controlnet", told)).any()
    Path("export").mkdir(exist_ok=True)
    for part in Path("whole").iterdir():
        if not part.name.startswith("checkpoint"):
            Path("export", part.name).symlink_to(part.resolve())
    np.testing.assert_array_equal(compare(tmp_path, "export", "--image", "one.png")[1][1], whole)


def test_inpainting_and_depth(tmp_path: Path) -> None:
    picture, mask = np.stack([pixels("one.png")] * 2), np.stack([pixels("half.png")[..., 0]] * 2)
    heads, drawn = compare(tmp_path, "inpainting", "--image", "one.png", "--mask", "half.png", "--keep_unmasked")
    assert heads == ["drawn after", "checkpoint-1"]
    pipe = load_pipeline("inpainting", concat_channels=INPAINTING)
    np.testing.assert_array_equal(
        drawn[1], generate_inpainted(pipe, PROMPTS, picture, mask, keep_unmasked=True, **SETTINGS)
    )
    np.testing.assert_array_equal(drawn[1][:, :, :32], picture[:, :, :32])
    _, drawn = compare(tmp_path, "depth", "--depth", "half.png")
    depth = load_pipeline("depth", concat_channels=DEPTH)
    np.testing.assert_array_equal(drawn[1], generate_from_depth(depth, PROMPTS, mask / np.float32(255), **SETTINGS))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("control", "--image missing: a ControlNet needs the picture to draw after"),
        ("lora --image one.png", "holds adapters beside a ControlNet; what the run exports is a whole one"),
        ("inpainting", "--image and --mask missing: an inpainting UNet needs a picture"),
        ("control --image one.png two.png one.png", "--prompt: 2, --image: 3: there must be as many of each"),
        ("control --image three.png", "--image: there is no file three.png"),
        ("depth --depth one.png --mask half.png", "--mask is for an inpainting UNet; this is a depth UNet"),
    ],
)
def test_what_is_missing_is_one_line(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags.split(), "--prompts", *PROMPTS]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if "error: " in line]) == 1


def test_prompts_with_a_size_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle --w 32\n", encoding="utf-8")
    assert main(["control", "--image", "one.png", "--prompts_file", str(prompts)]) == 1
    assert "all prompts have the same size: --width, --height" in capsys.readouterr().err
