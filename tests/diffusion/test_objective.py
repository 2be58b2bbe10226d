import contextlib
import math
from collections.abc import Iterator

import numpy as np
import paddle
import pytest
from paddle.base import core, framework

from ppsd.diffusion.objective import Objective, reduce
from ppsd.diffusion.schedule import NoiseSchedule
from ppsd.types import Condition

T = [0, 10, 300, 500, 900, 999]
NOTHING = Condition(hidden=None)
SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def schedule(**change: object) -> NoiseSchedule:
    return NoiseSchedule.from_config({**SD, **change})


def signal() -> np.ndarray:
    """Remaining signal variance at `T`, as arrays that broadcast over latents."""
    betas = (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * np.arange(1000) / 999) ** 2
    return np.cumprod(1 - betas)[T].reshape(-1, 1, 1, 1)


def latents(seed: int = 0) -> tuple:
    """x0, noise, prediction float64 [6,4,8,8]."""
    return tuple(np.random.default_rng(seed).standard_normal((3, len(T), 4, 8, 8)))


def tensors(*values: np.ndarray) -> list:
    return [paddle.to_tensor(value.astype("float32")) for value in values]


def losses_of(objective: Objective, x0: np.ndarray, noise: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    x0, noise, prediction = tensors(x0, noise, prediction)
    losses = objective.losses(lambda x, t, c: prediction, x0, noise, paddle.to_tensor(T), NOTHING)
    assert losses.dtype == paddle.float32
    return losses.numpy()


def expected_target(prediction_type: str, x0: np.ndarray, noise: np.ndarray) -> np.ndarray:
    velocity = signal() ** 0.5 * noise - (1 - signal()) ** 0.5 * x0
    return {"epsilon": noise, "v_prediction": velocity, "sample": x0}[prediction_type]


def expected_weights(prediction_type: str, gamma: float) -> np.ndarray:
    """Min-SNR, sample by sample: arXiv 2303.09556, section 3.4."""
    weights = []
    for snr in (signal() / (1 - signal())).ravel():
        clipped = min(snr, gamma)
        weights.append(
            {"epsilon": clipped / snr, "v_prediction": clipped / (snr + 1), "sample": clipped}[prediction_type]
        )
    return np.array(weights)


@pytest.mark.parametrize("gamma", [None, 5.0, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_losses_are_weighted_squared_errors(prediction_type, gamma):
    x0, noise, prediction = latents()
    error = ((prediction - expected_target(prediction_type, x0, noise)) ** 2).mean((1, 2, 3))
    expected = error if gamma is None else error * expected_weights(prediction_type, gamma)
    losses = losses_of(Objective(schedule(), prediction_type, gamma), x0, noise, prediction)
    np.testing.assert_allclose(losses, expected, rtol=3e-6)


def test_min_snr_weights_of_stable_diffusion():
    """Each sample has its own: at t = 0 the signal is 1175 times the noise, at t = 500 and 900 less than 5 times."""
    weights = Objective(schedule(), "epsilon", 5.0).weights(paddle.to_tensor([0, 10, 500, 900])).numpy()
    np.testing.assert_allclose(weights, [5 / 1175.4706, 0.0483, 1, 1], atol=1e-5)


def test_a_sample_is_weighted_alike_in_any_batch():
    objective = Objective(schedule(), "epsilon", 5.0)
    together = objective.weights(paddle.to_tensor(T)).tolist()
    assert together == [objective.weights(paddle.to_tensor([t])).item() for t in T]
    assert objective.weights(paddle.to_tensor(T[::-1])).tolist() == together[::-1]


@pytest.mark.parametrize(
    ("prediction_type", "at_terminal", "without_noise"),
    [("epsilon", 1.0, 0.0), ("v_prediction", 0.0, 0.0), ("sample", 0.0, 5.0)],
)
def test_weights_are_finite_at_zero_and_infinite_snr(prediction_type, at_terminal, without_noise):
    terminal = Objective(schedule(rescale_betas_zero_snr=True), prediction_type, 5.0)
    assert terminal.weights(paddle.to_tensor([999])).item() == at_terminal
    clean = Objective(NoiseSchedule.from_config({"trained_betas": [0.0]}), prediction_type, 5.0)
    assert clean.weights(paddle.to_tensor([0])).item() == without_noise


def test_the_denoiser_sees_the_noised_latents_the_timesteps_and_the_condition():
    x0, noise, _ = latents()
    seen = []

    def denoise(x_t, timesteps, condition):
        seen.append((x_t.numpy(), timesteps.tolist(), condition))
        return x_t

    Objective(schedule()).losses(denoise, *tensors(x0, noise), paddle.to_tensor(T), NOTHING)
    x_t, timesteps, condition = seen[0]
    np.testing.assert_allclose(x_t, signal() ** 0.5 * x0 + (1 - signal()) ** 0.5 * noise, atol=2e-6)
    assert timesteps == T
    assert condition is NOTHING


def test_perturbed_noise_goes_into_the_input_and_not_into_the_target():
    x0, noise, perturbed = latents()
    seen = []

    def denoise(x_t, timesteps, condition):
        seen.append(x_t.numpy())
        return tensors(noise)[0]

    x0, noise_in, perturbed_in = tensors(x0, noise, perturbed)
    losses = Objective(schedule()).losses(denoise, x0, noise_in, paddle.to_tensor(T), NOTHING, perturbed_in)
    assert losses.tolist() == [0.0] * len(T)
    expected = signal() ** 0.5 * x0.numpy() + (1 - signal()) ** 0.5 * perturbed
    np.testing.assert_allclose(seen[0], expected, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_prediction_is_compared_in_float32(dtype):
    x0, noise, prediction = latents()
    half = tensors(prediction)[0].astype(dtype)
    objective = Objective(schedule(), "v_prediction", 5.0)
    losses = objective.losses(lambda x, t, c: half, *tensors(x0, noise), paddle.to_tensor(T), NOTHING)
    wide = losses_of(objective, x0, noise, half.astype("float32").numpy())
    assert losses.dtype == paddle.float32
    assert losses.tolist() == wide.tolist()


@contextlib.contextmanager
def autocast_level(level: core.AmpLevel) -> Iterator[None]:
    """What `paddle.amp.auto_cast` sets; it refuses to on the CPU."""
    tracer = framework._dygraph_tracer()
    before, tracer._amp_level = tracer._amp_level, level
    try:
        yield
    finally:
        tracer._amp_level = before


def test_only_the_denoiser_runs_under_the_callers_autocast(monkeypatch):
    tracer, levels = framework._dygraph_tracer(), {}

    def watch(owner: object, name: str) -> None:
        method = getattr(owner, name)

        def watched(*args: object, **kwargs: object) -> object:
            levels.setdefault(name, set()).add(tracer._amp_level)
            return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    watch(paddle, "gather")
    for operation in ("__mul__", "__sub__", "__add__", "square", "mean", "clip", "__truediv__"):
        watch(paddle.Tensor, operation)
    prediction = tensors(latents()[2])[0]

    def denoise(x_t, timesteps, condition):
        levels["denoise"] = {tracer._amp_level}
        return prediction

    objective = Objective(schedule(), "v_prediction", 5.0)
    x0, noise = tensors(*latents()[:2])
    with autocast_level(core.AmpLevel.O2):
        losses = objective.losses(denoise, x0, noise, paddle.to_tensor(T), NOTHING)
        reduce(losses, paddle.ones([len(T)]))
        assert tracer._amp_level == core.AmpLevel.O2
    assert levels.pop("denoise") == {core.AmpLevel.O2}
    assert len(levels) == 8
    assert set.union(*levels.values()) == {core.AmpLevel.O0}


def test_gradients_reach_the_denoiser_alone():
    scale = paddle.to_tensor([0.5], stop_gradient=False)
    x0, noise = tensors(*latents()[:2])
    losses = Objective(schedule()).losses(lambda x, t, c: x * scale, x0, noise, paddle.to_tensor(T), NOTHING)
    reduce(losses, paddle.ones([len(T)])).backward()
    x_t = signal() ** 0.5 * latents()[0] + (1 - signal()) ** 0.5 * latents()[1]
    expected = (2 * (0.5 * x_t - latents()[1]) * x_t).mean()
    assert scale.grad.item() == pytest.approx(expected, rel=1e-5)
    assert x0.grad is None


def test_weights_of_the_data():
    losses = paddle.to_tensor([1.0, 2.0, 10.0, 20.0])
    assert reduce(losses, paddle.ones([4])).item() == pytest.approx(8.25)
    prior = 0.5
    dreambooth = reduce(losses, paddle.to_tensor([2.0, 2.0, 2 * prior, 2 * prior]))
    assert dreambooth.item() == pytest.approx(1.5 + prior * 15)
    assert dreambooth.shape == []


def test_parts_of_a_batch_average_to_the_whole():
    losses, weight = paddle.to_tensor([1.0, 2.0, 10.0, 20.0]), paddle.to_tensor([2.0, 0.5, 1.0, 0.0])
    halves = [reduce(losses[i : i + 2], weight[i : i + 2]).item() for i in (0, 2)]
    assert np.mean(halves) == pytest.approx(reduce(losses, weight).item())


def test_prediction_type_is_the_schedules_unless_given():
    of_config = schedule(prediction_type="v_prediction")
    assert Objective(of_config).prediction_type == "v_prediction"
    assert Objective(of_config, "sample").prediction_type == "sample"


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="unknown prediction_type 'x0'; known are epsilon, v_prediction, sample"):
        Objective(schedule(), "x0")
    for gamma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="snr_gamma must be above 0"):
            Objective(schedule(), snr_gamma=gamma)
