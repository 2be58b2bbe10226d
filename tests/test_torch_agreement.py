"""Training agrees with torch and diffusers: losses, gradient norms and weights of five steps of the real trainer.

How the reference was made is said in fixtures/torch_reference/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from ppsd import compat  # isort: skip  before paddle

import paddle
from ppdiffusers import UNet2DConditionModel
from ppdiffusers.transformers import CLIPTextModel

from ppsd.data.tally import Tally
from ppsd.diffusion.draws import Draws
from ppsd.diffusion.objective import Objective
from ppsd.diffusion.schedule import NoiseSchedule
from ppsd.models.bundle import Bundle
from ppsd.models.loading import load_component
from ppsd.trainers import step as step_module
from ppsd.trainers import trainer as trainer_module
from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments
from ppsd.trainers.run import Run
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.tiny import SCHEDULER_CONFIG, tiny_tokenizer, tiny_vae

compat.apply()

REFERENCE = Path(__file__).parent / "fixtures" / "torch_reference"
CURVES = json.loads((REFERENCE / "curves.json").read_text(encoding="utf-8"))
INPUTS = load_file(REFERENCE / "inputs.safetensors")
STEPS, BATCH = INPUTS["timesteps"].shape
WHOLE = "v_prediction-min_snr-text_encoder"


class FixtureLoader:
    """The reference's batches; a sample's seed says which one it is."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.tally = Tally()

    def close(self) -> None:
        """Nothing is open."""

    def waited_for(self) -> str:
        return "the fixture"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, STEPS * BATCH, self.batch_size):
            seeds = np.arange(start, start + self.batch_size)
            yield {
                "pixels": paddle.zeros([self.batch_size, 3, 64, 64], dtype="uint8"),
                "input_ids": rows("input_ids", seeds),
                "weight": paddle.ones([self.batch_size]),
                "seed": seeds,
                "record": np.zeros([self.batch_size, 3], np.int64),
            }


def rows(name: str, seeds: np.ndarray) -> paddle.Tensor:
    values = INPUTS[name]
    return paddle.to_tensor(values.reshape(-1, *values.shape[2:])[seeds])


def fixture_draw(seeds: np.ndarray, shape: Any, **_: Any) -> Draws:
    """x0 takes the place of the posterior's noise, and `encode` gives it back."""
    return Draws(rows("noise", seeds), rows("timesteps", seeds), None, vae_noise=rows("x0", seeds))


def build(case: str, folder: Path, accumulate: int) -> StableDiffusionTrainer:
    words = case.split("-")
    args = SDTrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // accumulate,
        gradient_accumulation_steps=accumulate,
        learning_rate=1e-3,
        weight_decay=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=1.0 if "clipped" in words else -1.0,
        save_strategy="no",
        report_to=["none"],
        disable_tqdm=True,
        image_logging_steps=-1,
        resolution=64,
    )
    bundle = Bundle(
        vae=tiny_vae(),
        text_encoder=load_component(CLIPTextModel, str(REFERENCE), "text_encoder", "--text_encoder_name_or_path"),
        tokenizer=tiny_tokenizer(),
        unet=load_component(UNet2DConditionModel, str(REFERENCE), "unet", "--unet_name_or_path"),
        scheduler_config=SCHEDULER_CONFIG,
    )
    schedule = NoiseSchedule.from_config(SCHEDULER_CONFIG, words[0])
    objective = Objective(schedule, snr_gamma=5.0 if "min_snr" in words else None)
    trained = {"unet": bundle.unet, **({"text_encoder": bundle.text_encoder} if "text_encoder" in words else {})}
    step = DiffusionStep(bundle, objective, trained)
    run = Run(ModelArguments(), DataArguments(), args)
    return StableDiffusionTrainer(run, bundle, step, lambda positions: FixtureLoader(BATCH // accumulate))


def train(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int = 1) -> dict[str, Any]:
    """loss and gradient_norm of each step, weights before and after."""
    monkeypatch.setattr(trainer_module, "draw", fixture_draw)
    monkeypatch.setattr(step_module, "encode", lambda vae, pixels, noise: noise)
    losses, norms = [], []
    reduce, optimizer_step = trainer_module.reduce, trainer_module.AdamW.step

    def watched_reduce(*args: paddle.Tensor) -> paddle.Tensor:
        loss = reduce(*args)
        losses.append(loss.item())
        return loss

    def watched_step(self: Any) -> None:
        gradients = [p.grad.numpy().astype(np.float64) for p in self._parameter_list if p.grad is not None]
        norms.append(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))
        optimizer_step(self)

    monkeypatch.setattr(trainer_module, "reduce", watched_reduce)
    monkeypatch.setattr(trainer_module.AdamW, "step", watched_step)
    trainer = build(case, folder, accumulate)
    before = weights(trainer.bundle)
    trainer.train()
    losses = np.reshape(losses, (-1, accumulate)).mean(1)
    return {"loss": losses, "gradient_norm": norms, "before": before, "after": weights(trainer.bundle)}


def weights(bundle: Bundle) -> dict[str, np.ndarray]:
    """As torch names and lays them out."""
    found = {}
    for part in ("unet", "text_encoder"):
        layer = getattr(bundle, part)
        linear = {id(sub.weight) for sub in layer.sublayers() if isinstance(sub, paddle.nn.Linear)}
        for name, parameter in layer.named_parameters():
            value = parameter.numpy().copy()
            found[f"{part}.{name}"] = np.ascontiguousarray(value.T) if id(parameter) in linear else value
    return found


def reference_updates(case: str) -> dict[str, np.ndarray]:
    """Of each trained parameter's update: the L2 norm, and sums under four patterns of signs."""
    with safe_open(REFERENCE / "updates.safetensors", "np") as file:
        return dict(zip(json.loads(file.metadata()["parameters"]), file.get_tensor(case)))


def sketch(update: np.ndarray) -> np.ndarray:
    signs = [1.0 - 2.0 * (np.random.Philox(key=k).random_raw(update.size) & 1) for k in range(4)]
    flat = update.astype(np.float64).ravel()
    return np.array([np.linalg.norm(flat), *(sign @ flat for sign in signs)])


@pytest.mark.parametrize("case", CURVES)
def test_five_steps_agree_with_diffusers(case, tmp_path, monkeypatch):
    run, expected = train(case, tmp_path, monkeypatch), CURVES[case]
    np.testing.assert_allclose(run["loss"], expected["loss"], rtol=2e-5)
    np.testing.assert_allclose(run["gradient_norm"], expected["gradient_norm"], rtol=5e-5)
    updates = reference_updates(case)
    off, moved = 0.0, 0.0
    for name, value in run["after"].items():
        update = value - run["before"][name]
        if name not in updates:
            assert not update.any(), f"{name} is frozen"
        elif not name.endswith("k_proj.bias"):
            # the sums under random signs differ by about the norm of the difference
            difference, size = np.abs(sketch(update) - updates[name]).max(), updates[name][0]
            assert difference < 3e-3 * size, f"the update of {name} is off by {difference / size:.1e} of its size"
            off, moved = off + difference**2, moved + size**2
    assert np.sqrt(off / moved) < 3e-4


def test_weights_agree_with_diffusers(tmp_path, monkeypatch):
    run, final = train(WHOLE, tmp_path, monkeypatch), load_file(REFERENCE / "final.safetensors")
    assert set(run["after"]) == set(final)
    off = np.sqrt(sum(((run["after"][name] - final[name]).astype(np.float64) ** 2).sum() for name in final))
    size = np.sqrt(sum((final[name].astype(np.float64) ** 2).sum() for name in final))
    moved = np.sqrt(sum(((run["before"][name] - final[name]).astype(np.float64) ** 2).sum() for name in final))
    assert off / size < 1e-5
    assert off / moved < 5e-4


def test_accumulated_halves_are_one_batch(tmp_path, monkeypatch):
    run, expected = train(WHOLE, tmp_path, monkeypatch, accumulate=2), CURVES[WHOLE]
    np.testing.assert_allclose(run["loss"], expected["loss"], rtol=2e-5)
    np.testing.assert_allclose(run["gradient_norm"], expected["gradient_norm"], rtol=5e-5)
