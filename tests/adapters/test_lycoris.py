"""Adapters against LyCORIS's forward (tests/fixtures/lycoris), and against plain numpy."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import paddle
import pytest

from ppsd.adapters.algorithms import ALGORITHMS, adapter_of
from ppsd.adapters.attach import attached
from ppsd.adapters.base import Options
from ppsd.adapters.layers import weight_of
from ppsd.adapters.lokr import LoKr, factorization
from tests.adapters.lycoris_cases import ARRAYS, CASES, DOCUMENT, arrays, attached_case, inputs, layer_of
from tests.adapters.plain_deltas import plain_delta

CLOSE = 1e-5
# LyCORIS's names for what Options has.
OPTIONS = {"use_tucker": "tucker", "decompose_both": "decompose_both", "factor": "factor"}


def difference(own: Any, expected: np.ndarray) -> float:
    """The largest, in parts of the largest value where that is above 1."""
    own = np.asarray(own)
    assert own.shape == expected.shape
    return float(np.abs(own - expected).max() / max(1.0, np.abs(expected).max()))


def measured(case: str) -> dict[str, float]:
    """How far ppsd is from LyCORIS."""
    layer, adapter = attached_case(case)
    x, g = inputs(case)
    out = layer(x)
    (out * g).sum().backward()
    group = "gradients_of_constant_length" if adapter.decomposes else "gradients"
    expected = arrays(f"{case}.{group}")
    found = {"x": x.grad, **{name: value.grad for name, value in adapter.named_parameters()}}
    assert set(found) == set(expected)
    return {
        "output": difference(out, ARRAYS[f"{case}.output"]),
        "delta": difference(adapter.delta(weight_of(layer)), ARRAYS[f"{case}.delta"]),
        "gradients": max(difference(found[name], expected[name]) for name in expected),
    }


@pytest.mark.parametrize("module", ["lora", "loha", "lokr"])
def test_outputs_deltas_and_gradients_are_those_of_lycoris(
    module: str, record_property: Callable[[str, object], None]
) -> None:
    rows = {case: measured(case) for case in CASES if CASES[case]["module"] == module}
    lines = [f"{'':24}{'output':>10}{'delta':>10}{'gradients':>11}"]
    lines += [
        f"{case:24}{row['output']:10.1e}{row['delta']:10.1e}{row['gradients']:11.1e}" for case, row in rows.items()
    ]
    record_property("table", "\n".join(lines))
    assert not [(case, row) for case, row in rows.items() if max(row.values()) > CLOSE]


@pytest.mark.parametrize("case", CASES)
def test_a_plain_layer_with_the_changed_weight_gives_the_same(case: str) -> None:
    layer, adapter = attached_case(case)
    x, _ = inputs(case)
    before, weight = layer(x).numpy(), layer.weight.numpy()
    plain = layer_of(case)
    changed = weight_of(plain) + adapter.delta(weight_of(plain))
    plain.weight.set_value(changed.T if changed.ndim == 2 else changed)
    assert difference(plain(x), before) <= CLOSE
    attached(layer).fuse()
    assert difference(layer(x), before) <= CLOSE
    assert not np.array_equal(layer.weight.numpy(), weight)
    attached(layer).unfuse()
    assert np.array_equal(layer.weight.numpy(), weight)


@pytest.mark.parametrize("case", CASES)
def test_plain_numpy_makes_the_same_delta_of_a_case(case: str) -> None:
    layer, adapter = attached_case(case)
    shape, weight = adapter.shape, weight_of(layer).numpy()
    assert difference(plain_delta(arrays(f"{case}.factors"), shape, weight), ARRAYS[f"{case}.delta"]) <= 1e-6
    assert difference(plain_delta(adapter.factors(), shape, weight), ARRAYS[f"{case}.delta"]) <= 1e-6


@pytest.mark.parametrize("case", [case for case in CASES if "unbalanced" not in case and "dora" not in case])
def test_new_factors_have_the_names_and_shapes_of_lycoris(case: str) -> None:
    wanted = CASES[case]
    options = {OPTIONS[name]: value for name, value in wanted["options"].items()}
    shape = DOCUMENT["layers"][wanted["layer"]]["shape"]
    factors = ALGORITHMS[wanted["module"]].initial(
        shape, Options(rank=wanted["rank"], **options), np.random.default_rng(0)
    )
    assert {name: list(value.shape) for name, value in factors.items()} | {"alpha": []} == wanted["factors"]


@pytest.mark.parametrize("name", DOCUMENT["beginnings"])
def test_new_factors_change_nothing_and_are_as_random_as_those_of_lycoris(name: str) -> None:
    wanted = DOCUMENT["beginnings"][name]
    asked = {OPTIONS[key]: value for key, value in wanted["options"].items() if key != "full_matrix"}
    rank = 100_000 if "full_matrix" in wanted["options"] else wanted["rank"]  # how users of kohya's ask for it
    algorithm = ALGORITHMS[wanted["module"]]
    factors = algorithm.initial(wanted["shape"], Options(rank=rank, **asked), np.random.default_rng(7))
    assert set(factors) == set(wanted["factors"])
    for leaf, (shape, deviation, largest) in wanted["factors"].items():
        value = factors[leaf]
        assert list(value.shape) == shape
        assert value.dtype == np.float32
        error = 5 / np.sqrt(value.size)  # five standard errors, roughly, of both
        assert value.std() == pytest.approx(deviation, rel=error)
        assert abs(value.mean()) <= deviation * error
        assert np.abs(value).max() == pytest.approx(largest, rel=0.05 if largest < 2 * deviation else 0.4)
    adapter = algorithm(factors, wanted["shape"])
    assert float(adapter.delta().abs().max()) == 0.0


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_factors_of_lokr_are_whole_from_the_rank_on_that_lycoris_says(rank: int) -> None:
    factors = LoKr.initial([40, 24], Options(rank, decompose_both=True), np.random.default_rng(0))
    expected = DOCUMENT["lokr_of_40x24_by_rank"][str(rank)]
    assert {name: list(value.shape) for name, value in factors.items()} == {
        name: own[0] for name, own in expected.items()
    }


def test_every_seed_gives_other_factors() -> None:
    first, same, second = (LoKr.initial([32, 16], Options(2), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first["lokr_w1"], same["lokr_w1"])
    assert not np.array_equal(first["lokr_w1"], second["lokr_w1"])


def test_dimensions_are_factored_as_lycoris_does() -> None:
    table = DOCUMENT["factorization"]
    expected = {
        (int(size), factor): tuple(pair)
        for size, pairs in table["dimensions"].items()
        for factor, pair in zip(table["factors"], pairs)
    }
    assert {key: factorization(*key) for key in expected} == expected
    assert (factorization(320), factorization(1280, 8), factorization(250, 4)) == ((16, 20), (8, 160), (2, 125))


def test_alpha_scales_lokr_only_where_a_factor_is_a_product() -> None:
    factors = arrays("lokr-linear-full.factors")
    one = LoKr({**factors, "alpha": np.float32(1)}, [40, 24]).delta().numpy()
    assert np.array_equal(LoKr({**factors, "alpha": np.float32(7)}, [40, 24]).delta().numpy(), one)
    factors = arrays("lokr-linear-factor4.factors")
    one = LoKr({**factors, "alpha": np.float32(1)}, [40, 24]).delta().numpy()
    assert np.allclose(LoKr({**factors, "alpha": np.float32(7)}, [40, 24]).delta().numpy(), 7 * one, rtol=1e-6)


@pytest.mark.parametrize("missing", ["lokr_w1", "lokr_w2_a", "lokr_w2_b"])
def test_lokr_with_a_factor_missing_or_twice_is_refused(missing: str) -> None:
    factors = arrays("lokr-conv3x3-tucker.factors")
    with pytest.raises(ValueError, match="LoKr has either"):
        LoKr({name: value for name, value in factors.items() if name != missing}, [20, 18, 3, 3])
    with pytest.raises(ValueError, match="LoKr has either lokr_w2"):
        LoKr({**factors, "lokr_w2": np.ones([5, 6, 3, 3], np.float32)}, [20, 18, 3, 3])


@pytest.mark.parametrize("case", ["loha-conv3x3s2", "lokr-conv3x3s2", "lokr-conv3x3-tucker"])
def test_channels_can_be_last(case: str) -> None:
    layer, adapter = attached_case(case)
    x, _ = inputs(case)
    plain = layer_of(case)(x).numpy()
    layer._data_format = "NHWC"
    out = adapter(x.transpose([0, 2, 3, 1]), layer).transpose([0, 3, 1, 2])
    assert difference(out, ARRAYS[f"{case}.output"] - plain) <= CLOSE


def test_a_part_of_the_factors_can_be_trained() -> None:
    layer, adapter = attached_case("loha-linear")
    x, g = inputs("loha-linear")
    adapter.hada_w1_a.stop_gradient = True
    (layer(x) * g).sum().backward()
    assert adapter.hada_w1_a.grad is None
    assert difference(adapter.hada_w2_b.grad, ARRAYS["loha-linear.gradients.hada_w2_b"]) <= CLOSE


def test_a_dora_of_a_row_of_zeros_is_a_number() -> None:
    """Such as the last convolution of a ControlNet has before it is trained."""
    _, adapter = attached_case("lora-linear-dora-out")
    adapter.lora_up.weight.set_value(paddle.zeros([12, 3]))
    assert np.array_equal(adapter.delta(paddle.zeros([12, 8])).numpy(), np.zeros([12, 8], np.float32))


@pytest.mark.parametrize("case", [case for case in CASES if "conv3x3" in case or "dora" in case])
def test_a_factor_of_another_shape_is_refused(case: str) -> None:
    """One more or one less in any direction, flat, or in a list: never an error of another kind, nor an adapter."""
    factors, shape = arrays(f"{case}.factors"), DOCUMENT["layers"][CASES[case]["layer"]]["shape"]
    for name, value in factors.items():
        if name == "alpha":
            continue
        others = [np.repeat(value, 2, axis) for axis in range(value.ndim)] + [value[None]]
        for other in others + ([] if name == "dora_scale" else [value.reshape(-1)]):
            with pytest.raises(ValueError, match=r"do not belong together|for a weight of|dora_scale has"):
                adapter_of({**factors, name: other}, shape)


@pytest.mark.parametrize(
    "case", ["lora-conv1x1", "loha-conv1x1", "lokr-conv1x1", "lokr-conv1x1-full", "lokr-conv1x1-dora-in"]
)
def test_adapters_of_1x1_convolutions_fit_linear_layers(case: str) -> None:
    """And the other way round: Stable Diffusion 2 has Linear layers where 1 has 1 x 1 convolutions."""
    weight = weight_of(layer_of(case)).flatten(1)
    adapter = adapter_of(arrays(f"{case}.factors"), [12, 8])
    assert difference(adapter.delta(weight), ARRAYS[f"{case}.delta"].reshape(12, 8)) <= CLOSE
    layer = paddle.nn.Linear(8, 12)
    layer.weight.set_value(weight.T)
    x = ARRAYS["conv1x1.x"].transpose(0, 2, 3, 1)
    expected = (ARRAYS[f"{case}.output"] - layer_of(case)(paddle.to_tensor(ARRAYS["conv1x1.x"])).numpy()).transpose(
        0, 2, 3, 1
    )
    assert difference(adapter(paddle.to_tensor(x), layer), expected) <= CLOSE


@pytest.mark.parametrize("case", ["lora-linear-dora-out", "lora-linear-dora-in", "loha-linear", "lora-linear"])
def test_adapters_of_linear_layers_fit_1x1_convolutions(case: str) -> None:
    weight = weight_of(layer_of(case)).reshape([12, 8, 1, 1])
    adapter = adapter_of(arrays(f"{case}.factors"), [12, 8, 1, 1])
    assert difference(adapter.delta(weight), ARRAYS[f"{case}.delta"].reshape(12, 8, 1, 1)) <= CLOSE
