import numpy as np
import pytest

from ppsd.diffusion.draws import draw

SHAPE = (4, 8, 8)


def arrays(seeds: list, **options: float) -> dict:
    draws = draw(np.array(seeds), SHAPE, num_train_timesteps=1000, **options)
    return {name: None if value is None else value.numpy() for name, value in vars(draws).items()}


def test_a_sample_is_drawn_the_same_in_any_batch():
    options = {"noise_offset": 0.1, "input_perturbation": 0.1, "masked": True}
    seeds = [11, -5, 2**62, 7]
    whole = arrays(seeds, **options)
    for i in (3, 0, 2, 1):
        alone = arrays([seeds[i]], **options)
        for name, value in whole.items():
            assert value[i].tobytes() == alone[name][0].tobytes(), name


def test_the_draws_of_a_seed_are_part_of_every_trained_run_and_never_change():
    drawn = arrays([0, 1234567890123], noise_offset=0.5, input_perturbation=0.5, masked=True)
    assert drawn["timesteps"].tolist() == [624, 105]
    np.testing.assert_allclose(drawn["noise"][1, 0, 0, :3], [-0.117946, -1.391991, 0.335006], atol=1e-6)
    np.testing.assert_allclose(drawn["vae_noise"][1, 0, 0, :3], [0.396621, 0.087683, -0.300827], atol=1e-6)
    np.testing.assert_allclose(drawn["masked_noise"][1, 0, 0, :3], [-0.419094, 0.165723, 1.298789], atol=1e-6)
    np.testing.assert_allclose(drawn["noise_for_input"][1, 0, 0, :3], [-0.911131, -0.795802, -0.230681], atol=1e-6)


def test_types_and_shapes():
    drawn = arrays([1, 2, 3])
    assert drawn["noise"].shape == drawn["vae_noise"].shape == (3, *SHAPE)
    assert drawn["noise"].dtype == drawn["vae_noise"].dtype == np.float32
    assert drawn["timesteps"].dtype == np.int64
    assert drawn["noise_for_input"] is None


def test_offset_noise_adds_one_number_a_sample_and_channel():
    plain, offset = arrays([1, 2]), arrays([1, 2], noise_offset=0.3)
    added = offset["noise"] - plain["noise"]
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :, :1, :1], added.shape), atol=1e-6)
    many = arrays(list(range(3000)), noise_offset=0.3)["noise"].mean((2, 3))
    assert many.std() == pytest.approx((0.3**2 + 1 / 64) ** 0.5, rel=0.03)
    assert np.corrcoef(many.T)[0, 1:] == pytest.approx(np.zeros(3), abs=0.06)


def test_input_perturbation_leaves_the_target_alone():
    plain, perturbed = arrays(list(range(100))), arrays(list(range(100)), input_perturbation=0.2)
    assert perturbed["noise"].tobytes() == plain["noise"].tobytes()
    added = perturbed["noise_for_input"] - perturbed["noise"]
    assert added.std() == pytest.approx(0.2, rel=0.02)
    assert np.corrcoef(added.ravel(), plain["noise"].ravel())[0, 1] == pytest.approx(0, abs=0.03)


def test_perturbation_is_on_top_of_the_offset():
    drawn = arrays([5], noise_offset=10.0, input_perturbation=0.1)
    assert abs(drawn["noise_for_input"] - drawn["noise"]).max() < 1


def test_noise_is_standard_normal_and_its_streams_are_independent():
    drawn = arrays(list(range(400)))
    for name in ("noise", "vae_noise"):
        assert drawn[name].mean() == pytest.approx(0, abs=0.01)
        assert drawn[name].std() == pytest.approx(1, abs=0.01)
    assert np.corrcoef(drawn["noise"].ravel(), drawn["vae_noise"].ravel())[0, 1] == pytest.approx(0, abs=0.02)
    neighbours = np.corrcoef(drawn["noise"][:-1].ravel(), drawn["noise"][1:].ravel())[0, 1]
    assert neighbours == pytest.approx(0, abs=0.02)


def test_timesteps_are_uniform_over_all_steps():
    timesteps = draw(np.arange(20000), (1, 1, 1), num_train_timesteps=10).timesteps.numpy()
    counts = np.bincount(timesteps, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 1850
    assert counts.max() < 2150


def test_seeds_may_be_a_tensor():
    import paddle

    seeds = [3, 4]
    tensor = draw(paddle.to_tensor(seeds, dtype="int64"), SHAPE, num_train_timesteps=1000)
    assert tensor.noise.numpy().tobytes() == arrays(seeds)["noise"].tobytes()
