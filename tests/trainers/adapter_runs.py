"""Tiny runs that train adapters, and what came out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppsd.adapters.network import AdapterNetwork
from ppsd.adapters.places import Place
from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.running import train
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.trainers.conftest import Run, weights

CLIP_LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
# Adam's first steps then are of the size of the learning rate, whatever the gradient's.
PLAIN_ADAM = {"weight_decay": 0.0, "adam_epsilon": 1e-20, "max_grad_norm": -1}


def learn(
    run: Run, output: Path, method: type[StableDiffusionTrainer] = LoRATrainer, **changes: Any
) -> StableDiffusionTrainer:
    """Train a rank of 2 on the tiny pipeline."""
    given = {"unet_name_or_path": None, "network_module": "lora", "check_data": "off", "network_dim": 2, **changes}
    return train(method, parse_run(method.own_arguments, run.flags(output, **given), method.defaults))


def built(run: Run, output: Path, **changes: Any) -> StableDiffusionTrainer:
    """All that comes before the first step."""
    return learn(run, output, do_train=False, **changes)


def network(trainer: StableDiffusionTrainer) -> AdapterNetwork:
    assert isinstance(trainer.bundle.adapter, AdapterNetwork)
    return trainer.bundle.adapter


def places(trainer: StableDiffusionTrainer, part: str = "unet") -> set[str]:
    return {place.path for place in network(trainer).adapters if place.part == part}


def factors(trainer: StableDiffusionTrainer) -> dict[tuple[Place, str], np.ndarray]:
    """By the place and the factor's name."""
    found = network(trainer).adapters
    return {(place, leaf): value for place, each in found.items() for leaf, value in each.factors().items()}


def saved(folder: Path) -> dict[str, np.ndarray]:
    """Of a checkpoint."""
    return weights(folder, "adapter")
