"""The real trainer on the batches of fixtures/torch_reference, watched: shared by the tests of agreement with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddle import nn
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
INPUTS = load_file(REFERENCE / "inputs.safetensors")
STEPS, BATCH = INPUTS["timesteps"].shape


@dataclass(frozen=True)
class Batches:
    """The reference's, of `order`: the places in a batch; weight of each of its samples; input_ids [S,B,L]."""

    order: Sequence[int] = tuple(range(BATCH))
    weight: Sequence[float] = (1.0,) * BATCH
    input_ids: np.ndarray = field(default_factory=lambda: INPUTS["input_ids"])


class FixtureLoader:
    """The reference's batches; a sample's seed says which one it is."""

    def __init__(self, batch_size: int, batches: Batches) -> None:
        self.batch_size, self.batches = batch_size, batches
        self.tally = Tally()

    def close(self) -> None:
        """Nothing is open."""

    def waited_for(self) -> str:
        return "the fixture"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = np.arange(STEPS * BATCH).reshape(STEPS, BATCH)[:, list(self.batches.order)]
        for seeds in order.reshape(-1, self.batch_size):
            yield {
                "pixels": paddle.zeros([self.batch_size, 3, 64, 64], dtype="uint8"),
                "input_ids": rows(self.batches.input_ids, seeds),
                "weight": paddle.to_tensor(np.array(self.batches.weight, np.float32)[seeds % BATCH]),
                "seed": seeds,
                "record": np.zeros([self.batch_size, 3], np.int64),
            }


def rows(values: np.ndarray, seeds: np.ndarray) -> paddle.Tensor:
    """Of values [S,B,...] those of these samples."""
    return paddle.to_tensor(values.reshape(-1, *values.shape[2:])[seeds])


def fixture_draw(seeds: np.ndarray, shape: Any, **_: Any) -> Draws:
    """x0 takes the place of the posterior's noise, and `encode` gives it back."""
    return Draws(
        rows(INPUTS["noise"], seeds), rows(INPUTS["timesteps"], seeds), None, vae_noise=rows(INPUTS["x0"], seeds)
    )


def own_networks(bundle: Bundle, words: Sequence[str]) -> dict[str, nn.Layer]:
    """What the words of a case say is trained."""
    return {"unet": bundle.unet, **({"text_encoder": bundle.text_encoder} if "text_encoder" in words else {})}


def build(
    case: str,
    folder: Path,
    accumulate: int = 1,
    batches: Batches = Batches(),
    networks: Callable[[Bundle, Sequence[str]], Mapping[str, nn.Layer]] = own_networks,
    **flags: Any,
) -> StableDiffusionTrainer:
    """A trainer as the words of `case` say; `networks` gives what it trains."""
    words = case.split("-")
    args = SDTrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // accumulate,
        gradient_accumulation_steps=accumulate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0 if "clipped" in words else -1.0,
        save_strategy="no",
        report_to=["none"],
        disable_tqdm=True,
        image_logging_steps=-1,
        resolution=64,
        **{"learning_rate": 1e-3, "weight_decay": 0.01, **flags},
    )
    bundle = Bundle(
        vae=tiny_vae(),
        text_encoder=load_component(CLIPTextModel, str(REFERENCE), "text_encoder", "--text_encoder_name_or_path"),
        tokenizer=tiny_tokenizer(),
        unet=load_component(UNet2DConditionModel, str(REFERENCE), "unet", "--unet_name_or_path"),
        scheduler_config=SCHEDULER_CONFIG,
    )
    prediction_type = "v_prediction" if "v_prediction" in words else "epsilon"
    schedule = NoiseSchedule.from_config(SCHEDULER_CONFIG, prediction_type)
    objective = Objective(schedule, snr_gamma=5.0 if "min_snr" in words else None)
    step = DiffusionStep(bundle, objective, networks(bundle, words))
    run = Run(ModelArguments(), DataArguments(), args)
    return StableDiffusionTrainer(run, bundle, step, lambda positions: FixtureLoader(BATCH // accumulate, batches))


def train(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int = 1, **options: Any
) -> dict[str, Any]:
    """loss and gradient_norm of each step, gradients of the first, weights before and after; options: of `build`."""
    monkeypatch.setattr(trainer_module, "draw", fixture_draw)
    monkeypatch.setattr(step_module, "encode", lambda vae, pixels, noise: noise)
    losses, norms, first = [], [], {}
    reduce, create_optimizer = trainer_module.reduce, StableDiffusionTrainer.create_optimizer

    def watched_reduce(*args: paddle.Tensor) -> paddle.Tensor:
        loss = reduce(*args)
        losses.append(loss.item())
        return loss

    def watched_optimizer(self: StableDiffusionTrainer, *args: Any, **kwargs: Any) -> Any:
        optimizer = create_optimizer(self, *args, **kwargs)
        if "step" in vars(optimizer):  # asked again
            return optimizer
        step = optimizer.step

        def watched_step() -> None:
            parameters = [p for p in optimizer._parameter_list if p.grad is not None]
            gradients = {p.name: p.grad.numpy().astype(np.float64) for p in parameters}
            norms.append(np.sqrt(sum((gradient**2).sum() for gradient in gradients.values())))
            first.update({} if first else gradients)
            step()

        optimizer.step = watched_step
        return optimizer

    monkeypatch.setattr(trainer_module, "reduce", watched_reduce)
    monkeypatch.setattr(StableDiffusionTrainer, "create_optimizer", watched_optimizer)
    trainer = build(case, folder, accumulate, **options)
    before = weights(trainer)
    trainer.train()
    return {
        "loss": np.reshape(losses, (-1, accumulate)).mean(1),
        "gradient_norm": norms,
        "gradients": named(trainer, lambda parameter: first.get(parameter.name)),
        "before": before,
        "after": weights(trainer),
    }


def weights(trainer: StableDiffusionTrainer) -> dict[str, np.ndarray]:
    return named(trainer, lambda parameter: parameter.numpy().copy())


def named(trainer: StableDiffusionTrainer, value_of: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """Values of the parameters, as torch names and lays them out; None is left out."""
    found = {}
    layers = {"unet": trainer.bundle.unet, "text_encoder": trainer.bundle.text_encoder}
    for part, layer in {**layers, **trainer.model.trained}.items():
        linear = {id(sub.weight) for sub in layer.sublayers() if isinstance(sub, nn.Linear)}
        for name, parameter in layer.named_parameters():
            value = value_of(parameter)
            if value is not None:
                found[f"{part}.{name}"] = np.ascontiguousarray(value.T) if id(parameter) in linear else value
    return found


def sketch(update: np.ndarray) -> np.ndarray:
    signs = [1.0 - 2.0 * (np.random.Philox(key=k).random_raw(update.size) & 1) for k in range(4)]
    flat = update.astype(np.float64).ravel()
    return np.array([np.linalg.norm(flat), *(sign @ flat for sign in signs)])
