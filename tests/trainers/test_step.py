"""Which layers of a training step are in training mode, whoever set the mode before."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppsd.diffusion.draws import draw
from ppsd.diffusion.objective import Objective
from ppsd.diffusion.schedule import NoiseSchedule
from ppsd.models.bundle import load_bundle
from ppsd.trainers.step import DiffusionStep
from tests.trainers.conftest import Run


def modes(layer: paddle.nn.Layer) -> set[bool]:
    """Of the layers that can tell: ppdiffusers' activations are shared between networks."""
    layers = [sub for sub in layer.sublayers(include_self=True) if not isinstance(sub, paddle.nn.Silu)]
    return {sublayer.training for sublayer in layers}


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_what_is_trained_is_in_training_mode_and_nothing_else(tiny_run: Run, train_text_encoder: bool) -> None:
    bundle = load_bundle(str(tiny_run.pipeline))
    objective = Objective(NoiseSchedule.from_config(bundle.scheduler_config, None, source="test"))
    trained = {"unet": bundle.unet, **({"text_encoder": bundle.text_encoder} if train_text_encoder else {})}
    step = DiffusionStep(bundle, objective, trained)
    pixels = paddle.zeros([1, 3, 16, 16], "uint8")
    draws = draw(np.array([3]), (4, 2, 2), num_train_timesteps=1000)

    def preview() -> None:
        for layer in (bundle.unet, bundle.text_encoder):
            layer.eval()

    def data_parallelism() -> None:
        for layer in step.sublayers(include_self=True):
            layer.training = True

    for meddle in (preview, data_parallelism, lambda: None):
        meddle()
        step.train()
        step(paddle.zeros([1, 77], "int64"), draws, pixels=pixels)
        assert modes(bundle.unet) == {True}
        assert modes(bundle.vae) == {False}
        assert modes(bundle.text_encoder) == {train_text_encoder}
