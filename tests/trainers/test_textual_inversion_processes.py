"""Two processes learn the rows that one learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from ppsd.interop.embeddings import load_embeddings
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.running import train
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from tests.trainers.conftest import Run

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "textual_inversion" / "train_textual_inversion.py"
OPTIONS = {
    "unet_name_or_path": None,
    "placeholder_token": ["<toy>", "<hat>"],
    "num_vectors": [2, 1],
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "num_lanes": 4,
}


def test_two_processes_learn_what_one_learns(tiny_run: Run, tmp_path: Path) -> None:
    flags = tiny_run.flags(tmp_path / "two", **OPTIONS, per_device_train_batch_size=2)
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(SCRIPT), *flags], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    one = tiny_run.flags(tmp_path / "one", **OPTIONS)
    trainer = train(
        TextualInversionTrainer, parse_run(TextualInversionTrainer.own_arguments, one, TextualInversionTrainer.defaults)
    )
    before = trainer.bundle.text_encoder.text_model.embeddings.token_embedding.weight.numpy()
    for name, count in (("toy", 2), ("hat", 1)):
        (token, rows), *_ = load_embeddings(tmp_path / "one" / f"learned_embeds_{name}.safetensors")
        (other, found), *_ = load_embeddings(tmp_path / "two" / f"learned_embeds_{name}.safetensors")
        assert token == other == f"<{name}>"
        assert rows.shape == (count, before.shape[1])
        np.testing.assert_allclose(found, rows, atol=2e-5)
