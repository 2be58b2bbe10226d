"""Two processes on the CPU over gloo, started as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.images import write_parts
from tests.trainers.conftest import Run, losses, weights

SCRIPT = Path(__file__).parents[2] / "examples" / "stable_diffusion" / "train_txt2img_laion400m_trainer.py"
RECORD = """
import hashlib, json, pathlib, sys
from ppsd.trainers import pretrain, running, trainer

class Recording(trainer.StableDiffusionTrainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        self.seeds = getattr(self, "seeds", []) + inputs["seed"].tolist()
        return super().compute_loss(model, inputs, return_outputs)

    def export(self):
        digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in self.step.unet.parameters())).hexdigest()
        pathlib.Path(self.args.output_dir, f"rank-{self.args.process_index}.json").write_text(
            json.dumps({"seeds": self.seeds, "weights": digest}))
        return super().export()

checked = pathlib.Path("checked")
report_data, build_trainer = running.report_data, running.build_trainer

def reporting(*args):
    report_data(*args)
    checked.touch(exist_ok=False)  # by one process

def building(*args):
    assert checked.exists(), "a process did not wait for the check of the data"
    return build_trainer(*args)

running.report_data, running.build_trainer = reporting, building
pretrain.StableDiffusionTrainer = Recording
pretrain.main(sys.argv[1:])
"""


def launch(script: Path, flags: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, str(script), *flags], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def two_processes(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    (folder / "record.py").write_text(RECORD)
    launch(folder / "record.py", tiny_run.flags(folder / "out", per_device_train_batch_size=2), folder)
    return folder / "out"


def test_both_processes_end_with_the_same_weights_and_saw_different_data(two_processes: Path) -> None:
    ranks = [json.loads((two_processes / f"rank-{r}.json").read_text()) for r in range(2)]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    seeds = [set(rank["seeds"]) for rank in ranks]
    assert [len(s) for s in seeds] == [12, 12]
    assert not seeds[0] & seeds[1]


def test_useless_data_stops_both_processes_with_one_line(tiny_run: Run, tmp_path: Path) -> None:
    flags = tiny_run.flags(tmp_path / "out", per_device_train_batch_size=2, file_list=write_parts(tmp_path, [8], 9, 9))
    with pytest.raises(AssertionError, match=r"error: --file_list .* cannot start: set: not one usable record"):
        launch(SCRIPT, flags, tmp_path)
    assert "Traceback" not in (tmp_path / "log" / "workerlog.1").read_text()


def test_two_processes_give_what_one_gives(two_processes: Path, tiny_run: Run, tmp_path: Path) -> None:
    """The same global batches and noise: only the order of float additions differs."""
    alone = tiny_run.train(tmp_path, per_device_train_batch_size=4)
    one, two = weights(tmp_path), weights(two_processes)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-6, rtol=1e-4, err_msg=name)
    state = json.loads((two_processes / "checkpoint-6" / "trainer_state.json").read_text())
    logged = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    np.testing.assert_allclose(logged, losses(alone), rtol=1e-5)


def test_a_run_of_two_processes_continues_on_one(two_processes: Path, tiny_run: Run, tmp_path: Path) -> None:
    alone = tiny_run.train(tmp_path / "a", per_device_train_batch_size=4)
    resumed = tiny_run.train(
        tmp_path / "b", per_device_train_batch_size=4, resume_from_checkpoint=two_processes / "checkpoint-3"
    )
    np.testing.assert_allclose(losses(resumed)[3:], losses(alone)[3:], rtol=1e-5)


def test_sharded_optimizer_states_continue(two_processes: Path, tiny_run: Run, tmp_path: Path) -> None:
    """Stage 1 computes what plain data parallel does, and goes on from its own checkpoint; by the script itself."""
    flags = tiny_run.flags(tmp_path / "out", per_device_train_batch_size=2, sharding="stage1")
    launch(SCRIPT, flags, tmp_path)
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    shutil.rmtree(tmp_path / "out" / "unet")
    launch(SCRIPT, flags, tmp_path)
    assert (tmp_path / "out" / "model_index.json").is_file()
    assert "step 6/6" in (tmp_path / "log" / "workerlog.0").read_text()
    plain, sharded = weights(two_processes), weights(tmp_path / "out")
    for name in plain:
        np.testing.assert_allclose(sharded[name], plain[name], atol=2e-6, rtol=1e-4, err_msg=name)
