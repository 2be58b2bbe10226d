"""The example scripts as a user calls them: what they write, and the one line that a mistake gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsd.interop.embeddings import save_embeddings
from ppsd.trainers.pretrain import main
from tests.images import part_line, write_lines, write_lists
from tests.trainers.conftest import Run, tiny_run  # noqa: F401  a fixture

EXAMPLES = Path(__file__).parents[2] / "examples" / "stable_diffusion"


def run(script: str, flags: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / script), *flags]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def error_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return next(line for line in done.stderr.splitlines() if "error: " in line)


@pytest.fixture(scope="module")
def trained(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("trained")
    done = run("train_txt2img_laion400m_trainer.py", tiny_run.flags(folder / "out", disable_tqdm=False), folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "training: 100%" in done.stderr, "a progress bar"
    assert "step 6/6 loss" in done.stderr
    return folder / "out"


def test_eval_draws_from_the_final_folder(trained: Path, tmp_path: Path) -> None:
    flags = ["--pipeline", str(trained), "--prompt", "a red circle", "a blue square", "--num_inference_steps", "2"]
    done = run("eval.py", [*flags, "--output", "grid.png", "--guidance_scale", "2", "--seed", "3"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid-000.png", "grid-001.png", "grid.png"]
    assert Image.open(tmp_path / "grid-000.png").size == (64, 64)
    again = run("eval.py", [*flags, "--output", "again.png", "--guidance_scale", "2", "--seed", "3"], tmp_path)
    assert again.returncode == 0
    first, second = (np.asarray(Image.open(tmp_path / f"{name}-001.png")) for name in ("grid", "again"))
    np.testing.assert_array_equal(first, second)


def test_eval_draws_a_checkpoints_unet_over_a_base(tiny_run: Run, trained: Path, tmp_path: Path) -> None:  # noqa: F811
    unet = str(trained / "checkpoint-3" / "unet")
    flags = ["--pipeline", str(tiny_run.pipeline), "--unet", unet, "--prompt", "x", "--num_inference_steps", "2"]
    done = run("eval.py", [*flags, "--height", "32", "--width", "48", "--num_images_per_prompt", "2"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Image.open(tmp_path / "grid-001.png").size == (48, 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pipeline", "no/where", "--prompt", "x"], "--pipeline: cannot load AutoencoderKL from 'no/where/vae'"),
        (["--pipeline", ".", "--prompt", "x"], "no model_index.json"),
    ],
)
def test_eval_names_what_is_wrong(flags: list[str], message: str, tmp_path: Path) -> None:
    assert message in error_line(run("eval.py", flags, tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_list": "nowhere.filelist.list"}, "nowhere.filelist.list"),
        ({"output_dir": "file/below"}, "--output_dir: cannot write to file/below"),
        ({"resolution": 60}, "--resolution"),
        ({"unet_name_or_path": "nowhere"}, "--unet_name_or_path: cannot load UNet2DConditionModel from 'nowhere'"),
        ({"unet_name_or_path": "nowhere.json"}, "--unet_name_or_path: there is no file nowhere.json"),
        ({"resume_from_checkpoint": "nowhere"}, "--resume_from_checkpoint: nowhere is not a whole checkpoint"),
        ({"resume_from_checkpoint": "latest"}, "--resume_from_checkpoint latest: "),
        ({"num_records": 2}, "--num_records is 2, less than the 4 records of one step"),
        (
            {"dataloader_num_workers": 1, "check_data": "off", "file_list": "bad.filelist.list"},
            "not one record of its 1 parts can be used",
        ),
        ({"check_data": "off", "file_list": "bad.filelist.list"}, "not one record of its 1 parts can be used"),
        ({"file_list": "bad.filelist.list"}, "--check_data off starts all the same"),
        ({"check_data": "fast"}, "--check_data is fast; it must be quick or full or off"),
        ({"file_list": "empty.filelist"}, "empty.filelist"),
        ({"pretrained_model_name_or_path": "no_betas"}, "missing beta_schedule, beta_start, beta_end"),
    ],
)
def test_training_names_what_is_wrong(
    tiny_run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
    message: str,
) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "empty.filelist").write_text("\n")
    bad = write_lines(tmp_path / "bad" / "part-000001", [b"one column\n", part_line("text", b"no image")])
    write_lists(tmp_path, {"bad": [bad]})
    if "no_betas" in changes.values():
        shutil.copytree(tiny_run.pipeline, tmp_path / "no_betas")
        (tmp_path / "no_betas" / "scheduler" / "scheduler_config.json").write_text(
            json.dumps({"_class_name": "DDIMScheduler", "num_train_timesteps": 1000})
        )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(tiny_run.flags(tmp_path / "out", **changes))
    assert message in str(caught.value)
    assert str(caught.value).startswith("error: ")


def test_an_unknown_key_exits_with_2(tiny_run: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "r.yaml").write_text("resolutoin: 64\n")
    flags = [*tiny_run.flags(tmp_path / "out"), "--config", "r.yaml"]
    done = run("train_txt2img_laion400m_trainer.py", flags, tmp_path)
    assert "r.yaml: unknown key 'resolutoin'; did you mean resolution?" in error_line(done, 2)


def test_eval_draws_with_learned_tokens(trained: Path, tmp_path: Path) -> None:
    file, command = tmp_path / "learned_embeds.safetensors", ["--pipeline", str(trained), "--prompt", "a <toy>"]
    save_embeddings(file, "<toy>", np.full((2, 16), 0.5, np.float32))
    for output, extra in (("with", ["--embeddings", str(file)]), ("without", [])):
        done = run("eval.py", [*command, "--num_inference_steps", "2", "--output", f"{output}.png", *extra], tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    pictures = [np.asarray(Image.open(tmp_path / f"{name}-000.png")) for name in ("with", "without")]
    assert not np.array_equal(*pictures)
    wide = tmp_path / "wide.safetensors"
    save_embeddings(wide, "<toy>", np.zeros((1, 768), np.float32))
    line = error_line(run("eval.py", [*command, "--embeddings", str(wide)], tmp_path))
    assert f"{wide}: the embedding of <toy> is [1, 768]" in line
