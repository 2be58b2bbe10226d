"""tools/plan_memory.py: a table, and flags that the training scripts know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppsd.trainers.memory_savings import SAVINGS
from ppsd.trainers.parsing import parse_run

ROOT = Path(__file__).parents[2]


def plan_memory(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "tools/plan_memory.py", *flags], cwd=ROOT, capture_output=True, text=True)


def test_the_table_adds_up_and_names_flags() -> None:
    done = plan_memory("--method", "dreambooth", "--model", "sd15", "--gpu", "16")
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(None, 2) for line in done.stdout.splitlines() if line.endswith(" GiB")]
    values = [float(row[1]) for row in rows]
    peak = next(line for line in done.stdout.splitlines() if line.startswith("at the peak"))
    assert sum(values) == pytest.approx(float(peak.split()[3]), abs=0.05)
    assert "It fits with" in done.stdout
    assert "--enable_xformers_memory_efficient_attention" in done.stdout


def test_a_wrong_model_is_one_line() -> None:
    done = plan_memory("--model", "nowhere")
    assert done.returncode == 2
    assert "--model nowhere: neither sd15" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--gpu", "0"), "--gpu is 0; it must be above 0"),
        (("--max_token_length", "100"), "argument --max_token_length: invalid choice: 100"),
    ],
)
def test_wrong_values_are_one_line(flags: tuple[str, ...], said: str) -> None:
    result = plan_memory(*flags)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def peak(*flags: str) -> float:
    done = plan_memory(*flags)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("at the peak"))
    return float(line.split()[3])


def test_a_recipe_says_what_flags_would(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("train_batch_size: 2\nmixed_precision: bf16\nrank: 8\n")
    said = peak("--method", "lora", "--config", str(file))
    assert said == peak("--method", "lora", "--batch_size", "2", "--precision", "O1", "--network_dim", "8")
    assert peak("--method", "lora", "--config", str(file), "--batch_size", "1") < said
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("frame: 1\n")
    done = plan_memory("--method", "lora", "--config", str(unknown))
    assert done.returncode == 2
    assert "unknown key 'frame'" in done.stderr


def test_halves_need_half_precision() -> None:
    done = plan_memory("--frozen_dtype", "bfloat16")
    assert done.returncode == 2
    assert "--frozen_dtype bfloat16 needs --precision O1 or O2" in done.stderr


@pytest.mark.parametrize("flag", [saving.flag for saving in SAVINGS])
def test_training_scripts_know_the_flags(flag: str, tmp_path: Path) -> None:
    parse_run(None, ["--output_dir", str(tmp_path), *flag.split()])
