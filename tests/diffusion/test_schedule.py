import logging
import math

import numpy as np
import paddle
import pytest

from ppsd.diffusion.schedule import NoiseSchedule

SD = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def remaining_signal(betas: list) -> list:
    """prod(1 - beta), one plain multiplication at a time."""
    product, products = 1.0, []
    for beta in betas:
        product *= 1 - beta
        products.append(product)
    return products


def betas_of(name: str, steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> list:
    if name == "linear":
        return [start + (end - start) * i / (steps - 1) for i in range(steps)]
    if name == "scaled_linear":
        low, high = math.sqrt(start), math.sqrt(end)
        return [(low + (high - low) * i / (steps - 1)) ** 2 for i in range(steps)]

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), 0.999) for i in range(steps)]


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noising_and_velocity_follow_the_formula(name):
    schedule = NoiseSchedule.from_config({**SD, "beta_schedule": name})
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 4, 3, 5, 5))
    t = np.array([0, 1, 500, 999])
    signal = np.array(remaining_signal(betas_of(name)))[t].reshape(4, 1, 1, 1)
    tensors = [paddle.to_tensor(a.astype("float32")) for a in (x0, noise)] + [paddle.to_tensor(t)]
    noised, velocity = schedule.add_noise(*tensors), schedule.velocity(*tensors)
    np.testing.assert_allclose(noised.numpy(), signal**0.5 * x0 + (1 - signal) ** 0.5 * noise, atol=2e-6)
    np.testing.assert_allclose(velocity.numpy(), signal**0.5 * noise - (1 - signal) ** 0.5 * x0, atol=2e-6)
    np.testing.assert_allclose(schedule.snr(tensors[2]).numpy(), (signal / (1 - signal)).ravel(), rtol=1e-6)


def test_known_values_of_stable_diffusion():
    schedule = NoiseSchedule.from_config(SD)
    assert schedule.num_train_timesteps == 1000
    assert schedule.prediction_type == "epsilon"
    assert schedule.alphas_cumprod[0] == pytest.approx(0.99915, abs=1e-7)
    assert schedule.alphas_cumprod[999] == pytest.approx(0.0046601, abs=1e-6)


def test_trained_betas_are_used_as_they_are():
    config = {"trained_betas": [0.1, 0.2, 0.5], "num_train_timesteps": 3, "beta_schedule": "whatever"}
    np.testing.assert_allclose(NoiseSchedule.from_config(config).alphas_cumprod, [0.9, 0.72, 0.36])


def test_zero_terminal_snr():
    schedule = NoiseSchedule.from_config({**SD, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    root = np.sqrt(remaining_signal(betas_of("scaled_linear")))
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    np.testing.assert_allclose(schedule.alphas_cumprod, expected, atol=1e-12)
    last = paddle.to_tensor([999])
    x0, noise = paddle.full([1, 4, 2, 2], 3.0), paddle.full([1, 4, 2, 2], 0.5)
    assert schedule.snr(last).item() == 0.0
    assert schedule.add_noise(x0, noise, last).numpy().tolist() == noise.numpy().tolist()
    assert schedule.velocity(x0, noise, last).numpy().tolist() == (-x0).numpy().tolist()


def test_no_noise_at_all_is_an_infinite_snr():
    schedule = NoiseSchedule.from_config({"trained_betas": [0.0, 0.5]})
    assert schedule.snr(paddle.to_tensor([0, 1])).tolist() == [math.inf, 1.0]


def test_half_precision_latents_are_noised_in_float32():
    schedule, t = NoiseSchedule.from_config(SD), paddle.to_tensor([3, 990])
    for dtype in ("bfloat16", "float16"):
        x0, noise = (paddle.randn([2, 4, 4, 4]).astype(dtype) for _ in range(2))
        wide = [tensor.astype("float32") for tensor in (x0, noise)]
        noised = schedule.add_noise(x0, noise, t)
        assert noised.dtype == paddle.float32
        assert (noised == schedule.add_noise(*wide, t)).all()
        assert (schedule.velocity(x0, noise, t) == schedule.velocity(*wide, t)).all()


def test_the_tables_survive_a_cast_of_the_layer_that_holds_them():
    holder = paddle.nn.Layer()
    holder.schedule = NoiseSchedule.from_config(SD)
    before = holder.schedule.snr(paddle.to_tensor([0, 999])).numpy()
    holder.to(dtype="bfloat16")
    after = holder.schedule.snr(paddle.to_tensor([0, 999]))
    assert after.dtype == paddle.float32
    assert after.numpy().tolist() == before.tolist()


def test_prediction_type_comes_from_the_config_unless_given():
    config = {**SD, "prediction_type": "v_prediction"}
    assert NoiseSchedule.from_config(config).prediction_type == "v_prediction"
    assert NoiseSchedule.from_config(config, "sample").prediction_type == "sample"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_start": None, "beta_end": None}, r"^sd/scheduler: missing beta_start, beta_end;"),
        ({"num_train_timesteps": None, "beta_schedule": None}, r"^sd/scheduler: missing num_train_timesteps, beta_sch"),
        ({"beta_schedule": "sigmoid"}, r"^sd/scheduler: unknown beta_schedule 'sigmoid'; known are linear, scaled_"),
        ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 0}, r"at least 1, not 0"),
        ({"beta_start": "0.1"}, r"beta_start must be a number from 0 to 1, not '0.1'"),
        ({"beta_end": 12}, r"beta_end must be a number from 0 to 1, not 12"),
        ({"trained_betas": [0.1, 0.2]}, r"2 trained_betas for num_train_timesteps 1000"),
        ({"trained_betas": ["a"]}, r"trained_betas must be a list of numbers"),
        ({"trained_betas": [1.5], "num_train_timesteps": 1}, r"betas must be a list of numbers from 0 to 1"),
        ({"prediction_type": "eps"}, r"unknown prediction_type 'eps'; known are epsilon, v_prediction, sample"),
    ],
)
def test_a_config_that_does_not_say_the_noise_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.from_config({**SD, **change}, source="sd/scheduler")


def test_epsilon_with_zero_terminal_snr_is_warned_of(caplog):
    config = {**SD, "rescale_betas_zero_snr": True}
    with caplog.at_level(logging.WARNING):
        NoiseSchedule.from_config(config, "v_prediction")
        assert not caplog.records
        NoiseSchedule.from_config(config)
    assert "zero terminal SNR" in caplog.text
