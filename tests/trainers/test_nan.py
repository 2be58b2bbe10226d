"""Losses and gradients that are not finite: nothing of them gets into the weights, and the records are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddlenlp.trainer import TrainerCallback

from ppsd.formats.filelist import read_file_list
from ppsd.trainers import pretrain
from ppsd.trainers.agreement import Agreement
from ppsd.trainers.gradients import clip_, square_norm
from ppsd.trainers.heart import Heart
from ppsd.trainers.nan_guard import MOST_SKIPS, UpdateGuard
from ppsd.trainers.records import KEPT, StepRecords
from ppsd.trainers.spikes import ENOUGH, Spikes
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.trainers.conftest import Run, assert_same_weights, losses, weights


class Watching(TrainerCallback):
    """Weights and averages after each step."""

    def __init__(self, trainer: StableDiffusionTrainer) -> None:
        self.trainer, self.seen = trainer, {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        optimizer = {k: v.numpy() for k, v in trainer.optimizer.state_dict().items() if "moment" in k or "pow" in k}
        model = {name: p.numpy().copy() for name, p in trainer.step.unet.named_parameters()}
        average = {f"ema {k}": np.array(v) for k, v in trainer.ema.state_dict().items()} if trainer.ema else {}
        self.seen[state.global_step] = {**optimizer, **model, **average}


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int], factor: float, micro_batch: int = 0) -> None:
    """Multiply the losses of `steps` by `factor`."""

    class Poisoned(StableDiffusionTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.count = 0
            self.after = Watching(self)
            self.add_callback(self.after)

        def compute_loss(self, *args: Any, **kwargs: Any) -> paddle.Tensor:
            loss = super().compute_loss(*args, **kwargs)
            step, part = divmod(self.count, self.args.gradient_accumulation_steps)
            self.count += 1
            return loss * factor if step + 1 in steps and part == micro_batch else loss

    monkeypatch.setattr(pretrain, "StableDiffusionTrainer", Poisoned)


def parts_of(run: Run) -> dict[str, list[str]]:
    """Lines of each part, by its path."""
    parts = [part for source in read_file_list(str(run.file_list), "auto") for part in source.parts]
    return {part: Path(part).read_text(encoding="utf-8").splitlines() for part in parts}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_nan_stops_the_run_and_names_its_records(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    poison(monkeypatch, {5}, float("nan"), micro_batch=accumulation - 1)
    options = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    with pytest.raises(ValueError, match=r"step 5: the loss of rank 0 is NaN.*nan-step-5.json.*--on_nan skip"):
        tiny_run.train(tmp_path, save_steps=1, **options)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*"))[-1] == "checkpoint-4"
    report = json.loads((tmp_path / "nan-step-5.json").read_text(encoding="utf-8"))
    assert report["step"] == 5
    assert report["gradients"]
    entries = report["records"]
    assert len(entries) == 4
    assert [entry["loss"] == "nan" for entry in entries] == [e["micro_batch"] == accumulation - 1 for e in entries]
    parts = parts_of(tiny_run)
    for entry in entries:
        part, line = entry["record"].rsplit(":", 1)
        caption = parts[part][int(line) - 1].split("\t")[0]
        if entry["caption"]:  # else it was dropped; the tokenizer puts a space between digits
            assert entry["caption"].replace(" ", "") == caption.replace(" ", "")
    assert any(entry["caption"] for entry in entries)


def test_infinite_gradients_of_a_finite_loss_stop_the_run(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(StableDiffusionTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> paddle.Tensor:
            loss = super().training_step(*args, **kwargs)
            if self.state.global_step == 1:
                gradient = self.step.unet.conv_in.weight.grad
                gradient.set_value(paddle.full_like(gradient, float("inf")))
            return loss

    monkeypatch.setattr(pretrain, "StableDiffusionTrainer", Broken)
    with pytest.raises(ValueError, match="step 2: every loss is finite, but the gradients"):
        tiny_run.train(tmp_path, save_steps=1)
    report = json.loads((tmp_path / "nan-step-2.json").read_text(encoding="utf-8"))
    assert report["gradients"] == ["unet.conv_in.weight"]


def test_a_skipped_update_changes_nothing(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        poison(patch, {2, 3}, float("nan"))
        skipped = tiny_run.train(tmp_path / "a", on_nan="skip", use_ema=True, logging_steps=3)
    assert skipped.state.global_step == 6
    assert skipped.watch.guard.skipped == 2
    seen = skipped.after.seen  # type: ignore[attr-defined]
    for step in (2, 3):
        assert seen[step].keys() == seen[1].keys()
        assert all(np.array_equal(seen[step][name], seen[1][name]) for name in seen[1])
    assert not all(np.array_equal(seen[4][name], seen[3][name]) for name in seen[3])
    plain = tiny_run.train(tmp_path / "b")
    assert losses(skipped)[0] == pytest.approx(losses(plain)[0], rel=1e-6)  # the mean of what was applied: step 1
    assert np.isfinite(losses(skipped)).all()
    assert (tmp_path / "a" / "nan-step-2.json").is_file()
    assert [e["skipped_updates"] for e in skipped.state.log_history if "loss" in e] == [2, 2]


def test_skipping_again_and_again_ends_the_run(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, set(range(3, 100)), float("nan"))
    with pytest.raises(ValueError, match=rf"step {2 + MOST_SKIPS}: .*{MOST_SKIPS} updates in a row were left out"):
        tiny_run.train(tmp_path, on_nan="skip", max_steps=50, save_steps=2)


def guard_of(output_dir: Path) -> UpdateGuard:
    return UpdateGuard(
        Agreement(),
        Heart(),
        StepRecords(0, lambda rows: ["part-0:7"], lambda ids: ["a cat"]),
        on_nan="stop",
        max_grad_norm=1.0,
        output_dir=output_dir,
        gather=lambda value: [value],
        stop_requested=lambda: False,
        names={},
    )


def test_a_report_that_cannot_be_written_does_not_hide_the_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guard_of(tmp_path / "gone")
    guard.add(dict.fromkeys(KEPT, paddle.zeros([1])), paddle.to_tensor(float("nan")))
    with pytest.raises(ValueError, match=r"the loss of rank 0 is NaN or infinite; its records, e\.g\. part-0:7 'a cat"):
        guard.settle()
    assert f"cannot write {tmp_path}/gone/nan-step-0.json: No such file or directory" in caplog.text


def test_an_update_that_the_loss_scaler_leaves_out_is_none(tmp_path: Path) -> None:
    """Under --fp16 the optimizer is then not asked; averages must not move either."""
    guard = guard_of(tmp_path)
    parameter = paddle.ones([3])
    for scaled, applied in ((True, False), (False, True)):
        guard.add(dict.fromkeys(KEPT), paddle.to_tensor(0.5))
        if not scaled:
            guard.judge([(parameter, paddle.ones([3]))])
        guard.settle()
        assert guard.applied is applied
    assert guard.mean_loss(2) == pytest.approx(1.0)


def test_the_guard_clips_as_paddle_does() -> None:
    paddle.seed(3)
    layer = paddle.nn.Sequential(paddle.nn.Linear(7, 5), paddle.nn.Linear(5, 3))
    layer(paddle.rand([4, 7])).square().sum().backward()
    pairs = [(p, p.grad.clone()) for p in layer.parameters()]
    norm = float(square_norm(pairs)) ** 0.5
    for limit in (norm / 3, norm * 3):
        wanted = paddle.nn.ClipGradByGlobalNorm(limit)([(p, g.clone()) for p, g in pairs])
        mine = [(p, g.clone()) for p, g in pairs]
        clip_(mine, norm, limit)
        for (_, a), (_, b) in zip(wanted, mine):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    clip_(mine, norm, -1.0)
    np.testing.assert_array_equal(mine[0][1].numpy(), pairs[0][1].numpy())


def test_the_norm_of_half_precision_gradients_does_not_overflow() -> None:
    gradient = paddle.full([100, 100], 300.0).astype("float16")  # its square sum is 9e8, above 65504
    assert float(square_norm([(gradient, gradient), (gradient, gradient)])) == pytest.approx(2 * 9e8)
    assert float(square_norm([])) == 0


def test_the_gradient_norm_is_logged(tiny_run: Run, tmp_path: Path) -> None:
    trainer = tiny_run.train(tmp_path, max_steps=2)
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(set(norms)) == 2
    assert all(norm > 0 for norm in norms)


def test_spikes_are_seen_and_ordinary_scatter_is_not() -> None:
    random = np.random.default_rng(5)
    spikes = Spikes()
    ordinary = np.exp(random.normal(-2, 0.5, 2000))
    assert [spikes.usual_if_spike(loss) for loss in ordinary] == [None] * 2000
    usual = spikes.usual_if_spike(float(np.exp(-2 + 0.5 * 9)))
    assert usual == pytest.approx(np.exp(-2), rel=0.2)
    assert spikes.usual_if_spike(float(np.exp(-2 + 0.5 * 2))) is None
    early = Spikes()
    assert [early.usual_if_spike(loss) for loss in [0.1] * (ENOUGH - 1) + [1e6]] == [None] * ENOUGH


def test_a_spike_is_logged_with_its_records(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ppsd.trainers.spikes.ENOUGH", 4)
    monkeypatch.setattr("ppsd.trainers.spikes.FAR", 40.0)
    poison(monkeypatch, {6}, 1e12)
    tiny_run.train(tmp_path)
    said = [record.getMessage() for record in caplog.records if "usually about" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("step 6: the loss is ")
    assert "part-" in said[0]


def test_an_empty_guard_leaves_the_weights_as_they_were(tiny_run: Run, tmp_path: Path) -> None:
    """The guard and --max_grad_norm -1: the same steps as with a limit that is never reached."""
    free = tiny_run.train(tmp_path / "a", max_grad_norm=-1)
    never = tiny_run.train(tmp_path / "b", max_grad_norm=1e6)
    assert losses(free) == losses(never)
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize(("name", "value"), [("on_nan", "ignore"), ("data_timeout", -1), ("step_timeout", "nan")])
def test_wrong_values_are_named(tiny_run: Run, tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"--{name} is "):
        tiny_run.train(tmp_path, **{name: value})
