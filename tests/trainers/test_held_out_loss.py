"""The held-out loss by itself: its draws, its figures, and that it leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest

from ppsd.diffusion.draws import Draws, draw
from ppsd.diffusion.objective import Objective
from ppsd.diffusion.schedule import NoiseSchedule
from ppsd.models.bundle import Bundle
from ppsd.trainers.held_out import HeldOut, as_latents
from ppsd.trainers.held_out_loss import HeldOutLoss, evaluating, fixed_draws, timesteps_each
from ppsd.trainers.measurements import Measurements, estimate
from ppsd.trainers.run_state import random_state
from ppsd.trainers.step import DiffusionStep
from ppsd.trainers.validation import figures, sentence
from ppsd.types import Sample
from tests.tiny import MAX_LENGTH, SCHEDULER_CONFIG, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

compat.apply()


def beat() -> None:
    pass


def tiny_bundle(**unet: Any) -> Bundle:
    return Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), tiny_unet(**unet), SCHEDULER_CONFIG)


def held_out(bundle: Bundle, sizes: list[tuple[int, int]]) -> HeldOut:
    """Pictures of noise of these (height, width)."""
    samples = []
    for seed, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
        ids = np.full(MAX_LENGTH, seed, np.int64)
        samples.append(as_latents(bundle, Sample(pixels, ids, seed=1000 + seed)))
    return HeldOut([f"picture {i}" for i in range(len(sizes))], samples)


def losses_of(step: DiffusionStep) -> Any:
    def losses(inputs: Mapping[str, Any], draws: Draws) -> paddle.Tensor:
        return step(input_ids=inputs["input_ids"], draws=draws, moments=inputs["moments"])

    return losses


def make(sizes: list[tuple[int, int]], batch_size: int = 4, **unet: Any) -> tuple[HeldOutLoss, DiffusionStep]:
    bundle = tiny_bundle(**unet)
    schedule = NoiseSchedule.from_config(SCHEDULER_CONFIG, None, source="test")
    step = DiffusionStep(bundle, Objective(schedule), {"unet": bundle.unet, "text_encoder": bundle.text_encoder})
    found = held_out(bundle, sizes)
    settings = {"batch_size": batch_size, "num_train_timesteps": 1000}
    return HeldOutLoss(found, losses_of(step), step, latent_shape, **settings), step


def latent_shape(inputs: Mapping[str, Any]) -> tuple[int, int, int]:
    _, channels, height, width = inputs["moments"].shape
    return channels // 2, height, width


def test_each_stratum_has_its_part_of_the_schedule() -> None:
    seeds = list(range(400))
    for stratum in range(4):
        timesteps = fixed_draws(seeds, [stratum] * 400, 4, (4, 2, 2), 1000).timesteps.numpy()
        assert timesteps.min() >= 250 * stratum
        assert timesteps.max() < 250 * (stratum + 1)
        assert abs(timesteps.mean() - 250 * (stratum + 0.5)) < 4 * 72 / 20, "uniform within: 4 standard errors"


def test_draws_depend_on_the_record_and_the_stratum_alone() -> None:
    one = fixed_draws([5, 7], [0, 2], 4, (4, 2, 2), 1000)
    other = fixed_draws([7, 5, 7], [2, 1, 0], 4, (4, 2, 2), 1000)
    np.testing.assert_array_equal(one.noise.numpy()[1], other.noise.numpy()[0])
    assert one.timesteps.tolist()[1] == other.timesteps.tolist()[0]
    noises = [one.noise.numpy()[0], *other.noise.numpy()]
    assert all(not np.array_equal(a, b) for i, a in enumerate(noises) for b in noises[:i]), "no noise twice"
    assert one.noise_for_input is None


def test_few_records_get_more_timesteps() -> None:
    assert [timesteps_each(n) for n in (1, 3, 16, 17, 1000)] == [64, 22, 4, 4, 4]


def test_a_network_that_says_nothing_has_the_mean_square_of_the_noise_as_loss() -> None:
    loss, step = make([(64, 64)] * 20)
    for parameter in (step.unet.conv_out.weight, step.unet.conv_out.bias):
        parameter.set_value(paddle.zeros_like(parameter))
    measured = loss.means([loss.share(0, 1, beat)])
    seeds = [sample.seed for sample in loss.held_out.samples]
    noise = np.stack([fixed_draws(seeds, [k] * 20, 4, (4, 8, 8), 1000).noise.numpy() for k in range(4)])
    np.testing.assert_allclose(measured, (noise**2).mean(axis=(0, 2, 3, 4)), rtol=1e-6)


def test_processes_that_share_the_records_measure_the_same_bit_for_bit() -> None:
    sizes = [(64, 64)] * 3 + [(64, 96)] * 2
    loss, _ = make(sizes)
    alone = loss.means([loss.share(0, 1, beat)])
    shares = [loss.share(rank, 3, beat) for rank in range(3)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 4, "shared evenly, to a batch"
    np.testing.assert_array_equal(loss.means(shares), alone)
    assert np.isfinite(alone).all()


def test_measuring_again_gives_the_same_and_leaves_no_trace() -> None:
    loss, step = make([(64, 64)] * 2, dropout=0.5)
    step.train()
    step.vae.eval()
    random.seed(1)
    np.random.seed(1)
    paddle.seed(1)
    before = random_state()
    modes = [layer.training for layer in step.sublayers(include_self=True)]
    first = loss.means([loss.share(0, 1, beat)])
    second = loss.means([loss.share(0, 1, beat)])
    np.testing.assert_array_equal(first, second)
    assert random_state() == before
    assert [layer.training for layer in step.sublayers(include_self=True)] == modes
    assert all(parameter.grad is None for parameter in step.parameters())


def test_nothing_is_dropped_out_while_measuring() -> None:
    without, _ = make([(64, 64)] * 2)
    dropping, step = make([(64, 64)] * 2, dropout=0.5)
    step.train()
    wanted = without.means([without.share(0, 1, beat)])
    np.testing.assert_array_equal(dropping.means([dropping.share(0, 1, beat)]), wanted)
    with evaluating(step):
        assert not any(layer.training for layer in step.sublayers(include_self=True))


def test_a_trained_text_encoder_drops_nothing_out_either() -> None:
    loss, step = make([(64, 64)] * 2)
    step.train()
    modes = []
    step.text_encoder.register_forward_post_hook(lambda layer, *_: modes.append(layer.training))
    loss.share(0, 1, beat)
    assert modes
    assert not any(modes)
    assert step.text_encoder.training


def test_the_standard_error_is_that_of_records_drawn_at_random() -> None:
    """Of 4000 sets of 25 records, the means spread as the standard error says."""
    sets = np.random.default_rng(0).gamma(2.0, 0.1, (4000, 25))
    estimates = [estimate(values) for values in sets]
    spread = np.std([found.value for found in estimates])
    assert abs(np.mean([found.error**2 for found in estimates]) ** 0.5 / spread - 1) < 0.05
    assert np.isnan(estimate(np.array([0.5])).error)


def measurements(*losses: list[float]) -> Measurements:
    found = Measurements("d", ["a", "b", "c"], 22)
    found.losses = {10 * step: np.array(values) for step, values in enumerate(losses)}
    return found


def test_a_rise_is_measured_record_by_record() -> None:
    """Records differ by 0.4 and more; that all of them rise by 0.01 is seen nevertheless."""
    found = measurements([0.1, 0.5, 0.9], [0.09, 0.49, 0.89], [0.1, 0.5, 0.901])
    assert found.lowest() == 10
    said = figures(found, 20, 10)
    assert said["validation_loss"] == pytest.approx(0.500333, abs=1e-6)
    assert said["validation_loss_error"] == pytest.approx(0.231, abs=1e-3)
    assert said["validation_rise"] == pytest.approx(0.010333, abs=1e-6)
    assert said["validation_rise_error"] == pytest.approx(0.000333, abs=1e-6)
    assert sentence(found, 20, 10) == (
        "validation loss 0.50033 ± 0.23123, 0.01033 ± 0.00033 above that of step 10: over-fitting, not chance"
    )


def test_a_rise_that_may_be_chance_is_called_nothing() -> None:
    found = measurements([0.1, 0.5, 0.9], [0.2, 0.45, 0.95])
    assert sentence(found, 10, 0).endswith("0.03333 ± 0.04410 above that of step 0")
    assert sentence(measurements([0.1, 0.5, 0.9]), 0, 0) == "validation loss 0.50000 ± 0.23094"
    assert sentence(measurements([0.2, 0.5, 0.9], [0.1, 0.5, 0.9]), 10, 10).endswith(": the lowest so far")
    assert "validation_rise" not in figures(found, 0, 0)


def test_what_is_not_a_number_is_never_the_lowest() -> None:
    nan = float("nan")
    assert measurements([nan, 1, 1], [2, 2, 2], [nan, nan, nan], [3, 3, 3]).lowest() == 10
    assert measurements([nan, 1, 1]).lowest() == 0
    assert measurements().lowest() is None


def test_the_file_is_read_by_a_run_that_goes_on(tmp_path: Path) -> None:
    found = measurements([0.5, 0.5, 0.5], [0.1, 0.2, 1 / 3], [0.6, 0.6, 0.6])
    found.averaged[10] = np.array([0.3, 0.2, 0.1])
    found.save(tmp_path)
    again = Measurements("d", ["a", "b", "c"], 22)
    again.load(tmp_path, until=10)
    assert sorted(again.losses) == [0, 10], "what was measured after the checkpoint is measured again"
    np.testing.assert_array_equal(again.losses[10], found.losses[10])
    np.testing.assert_array_equal(again.averaged[10], found.averaged[10])
    other = Measurements("e", ["a", "b", "c"], 22)
    other.load(tmp_path, until=10)
    assert other.losses == {}, "of other records"
    other.load(tmp_path / "nowhere", until=10)
    (tmp_path / "validation.json").write_text("{")
    with pytest.raises(ValueError, match=r"validation.json: cannot be read .*delete it"):
        again.load(tmp_path, until=10)


def test_the_draws_of_training_are_other_ones() -> None:
    """A record seed never gives training's noise: a held-out record is not noised as it would have been trained on."""
    training = draw([5], (4, 2, 2), num_train_timesteps=1000).noise.numpy()[0]
    fixed = fixed_draws([5] * 4, range(4), 4, (4, 2, 2), 1000).noise.numpy()
    assert all(not np.array_equal(training, noise) for noise in fixed)
