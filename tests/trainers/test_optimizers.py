"""Optimizers: the same weights as other libraries' after every step, rates and decay by weight, and exact state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.models.saving import read_weights
from ppsd.trainers.gradients import install_judge
from ppsd.trainers.optimizer_state import OPTIMIZER, OptimizerState, load_optimizer, own_state
from ppsd.trainers.optimizers import moments
from ppsd.trainers.optimizers.choices import OPTIONS, optimizer_name, optimizer_options
from ppsd.trainers.optimizers.factory import make_optimizer

REFERENCE = read_weights(Path(__file__).parents[1] / "fixtures" / "optimizers" / "reference.safetensors")
SHAPES = {"linear": [12, 7], "convolution": [5, 4, 3, 3], "bias": [9]}
RATE = 1e-2


class Weights(paddle.nn.Layer):
    """Parameters of given shapes."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, self.create_parameter(shape, default_initializer=paddle.nn.initializer.Normal()))


def make(
    layer: paddle.nn.Layer,
    name: str,
    options: Sequence[str] = (),
    decay: float = 0.0,
    exempt: str = "",
    o2: bool = False,
) -> Any:
    args = SimpleNamespace(
        optimizer_type=name,
        optimizer_args=list(options),
        weight_decay=decay,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        fp16_opt_level="O2" if o2 else "O1",
    )
    free = {p.name for n, p in layer.named_parameters() if n == exempt}
    schedule = paddle.optimizer.lr.StepDecay(RATE, step_size=1000)
    parameters: Any = layer.parameters()
    return make_optimizer(args, parameters, schedule, lambda name: name not in free)


def step(optimizer: Any, layer: paddle.nn.Layer, gradients: dict[str, np.ndarray]) -> None:
    for name, parameter in layer.named_parameters():
        gradient = paddle.to_tensor(gradients[name].reshape(parameter.shape)).astype(parameter.dtype)
        (parameter * gradient).sum().backward()
    optimizer.step()
    optimizer.clear_grad()


def random_gradients(layer: paddle.nn.Layer, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(p.shape).astype(np.float32) for name, p in layer.named_parameters()}


CASES = [
    ("adamw", "AdamW", [], 0.1),
    ("lion", "Lion", [], 0.1),
    ("lion-betas", "Lion", ["betas=0.95,0.98"], 0.0),
    ("adafactor", "Adafactor", ["clip_threshold=0.5"], 0.1),
    (
        "adafactor-relative",
        "Adafactor",
        ["relative_step=True", "scale_parameter=True", "warmup_init=True", "beta1=0.9"],
        0.0,
    ),
    ("sgdnesterov", "SGDNesterov", ["momentum=0.9"], 0.1),
]


@pytest.mark.parametrize(("case", "name", "options", "decay"), CASES, ids=[case[0] for case in CASES])
def test_weights_are_those_of_the_reference_library(case: str, name: str, options: list[str], decay: float) -> None:
    layer = Weights(SHAPES)
    for key, parameter in layer.named_parameters():
        parameter.set_value(REFERENCE[f"start.{key}"].reshape(parameter.shape))
    optimizer = make(layer, name, options, decay)
    for i in range(6):
        step(optimizer, layer, {key: REFERENCE[f"gradients.{key}"][i] for key in SHAPES})
        for key, parameter in layer.named_parameters():
            expected = REFERENCE[f"{case}.{key}"][i].reshape(parameter.shape)
            np.testing.assert_allclose(parameter.numpy(), expected, rtol=2e-6, atol=2e-7, err_msg=f"{key}, step {i}")


def test_eight_bits_are_those_of_bitsandbytes() -> None:
    np.testing.assert_allclose(moments.code(signed=True), REFERENCE["code.signed"], rtol=1e-6)
    np.testing.assert_allclose(moments.code(signed=False), REFERENCE["code.unsigned"], rtol=1e-6)
    values = REFERENCE["values"]
    codes, scale = moments.quantize(paddle.to_tensor(values), signed=True)
    assert codes.shape == [4, 256]
    assert codes.dtype == paddle.uint8
    shares = np.abs(values) / np.repeat(scale.numpy()[:, 0], 256)[:1000]
    differ = codes.numpy().reshape(-1)[:1000] != REFERENCE["codes"]
    assert (shares > 1e-2).sum() > 150
    assert not differ[shares > 1e-2].any()
    back = moments.dequantize(codes, scale, True, [1000]).numpy()
    np.testing.assert_allclose(back[shares > 1e-2], REFERENCE["back"][shares > 1e-2], rtol=1e-6)
    assert np.all(np.abs(back - values) <= np.abs(REFERENCE["back"] - values) + 1e-6 * np.abs(values))


def test_zeros_stay_zeros_in_eight_bits() -> None:
    codes, scale = moments.quantize(paddle.zeros([300]), signed=True)
    np.testing.assert_array_equal(moments.dequantize(codes, scale, True, [300]).numpy(), 0)


@pytest.mark.parametrize(("name", "full", "tolerance"), [("AdamW8bit", "AdamW", 0.05), ("Lion8bit", "Lion", 0.12)])
def test_eight_bits_walk_with_float32(name: str, full: str, tolerance: float) -> None:
    """20 steps: apart by little of the way gone; weights below 4096 numbers, whose moments stay float32, by nothing."""
    shapes = {"large": [80, 70], "small": [30]}
    layers, starts = [], {}
    for kind in (name, full):
        paddle.seed(5)
        layer = Weights(shapes)
        starts = {key: p.numpy().copy() for key, p in layer.named_parameters()}
        optimizer = make(layer, kind, decay=0.1)
        for i in range(20):
            step(optimizer, layer, random_gradients(layer, i))
        layers.append({key: p.numpy() for key, p in layer.named_parameters()})
    way = np.abs(layers[1]["large"] - starts["large"]).mean()
    assert 0 < np.abs(layers[0]["large"] - layers[1]["large"]).mean() < tolerance * way
    np.testing.assert_allclose(layers[0]["small"], layers[1]["small"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "Adafactor"])
def test_a_weight_has_its_own_rate(name: str) -> None:
    """Of three weights with one start and one gradient, one at half the rate goes half as far, one not at all."""
    layer = Weights({"whole": [70, 80], "half": [70, 80], "none": [70, 80]})
    for (_, parameter), ratio in zip(layer.named_parameters(), (1.0, 0.5, 0.0)):
        parameter.set_value(np.ones([70, 80], np.float32))
        parameter.optimize_attr["learning_rate"] = ratio
    optimizer = make(layer, name)
    gradient = random_gradients(layer, 0)["whole"]
    step(optimizer, layer, dict.fromkeys(("whole", "half", "none"), gradient))
    gone = {key: 1 - p.numpy() for key, p in layer.named_parameters()}
    assert np.abs(gone["whole"]).max() > 1e-3
    np.testing.assert_allclose(gone["half"], gone["whole"] / 2, atol=2e-7)
    np.testing.assert_array_equal(gone["none"], 0)


@pytest.mark.parametrize("name", OPTIONS)
def test_only_what_decays_decays(name: str) -> None:
    layer = Weights({"decays": [70, 80], "bias": [70, 80]})
    for parameter in layer.parameters():
        parameter.set_value(np.ones([70, 80], np.float32))
    optimizer = make(layer, name, decay=0.5, exempt="bias")
    step(optimizer, layer, {key: np.zeros([70, 80], np.float32) for key in ("decays", "bias")})
    np.testing.assert_allclose(layer.bias.numpy(), 1)
    expected = 1 - RATE * 0.5 * (1.9 if name == "SGDNesterov" else 1.0)  # L2: through the momentum, and on
    np.testing.assert_allclose(layer.decays.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_vetoed_update_leaves_no_trace(name: str) -> None:
    answers = iter([True, False, True])
    states = []
    for judged in (True, False):
        paddle.seed(1)
        layer = Weights({"a": [70, 80], "b": [9]})
        optimizer = make(layer, name, decay=0.1)
        if judged:
            install_judge(optimizer, lambda params_grads: next(answers))
        for seed in (0, 1, 2) if judged else (0, 2):
            step(optimizer, layer, random_gradients(layer, seed))
        states.append((layer, optimizer))
    assert_equal_states(*states[0], *states[1])


def test_gradients_of_what_stays_as_it_is_are_not_judged() -> None:
    """Else the others would be clipped for them."""
    judged: list[int] = []
    layer = Weights({"stays": [3], "moves": [5]})
    optimizer = make(layer, "AdamW")
    layer.stays.optimize_attr["learning_rate"] = 0.0
    install_judge(optimizer, lambda params_grads: bool(judged.extend(p.size for p, _ in params_grads)) or True)
    before = layer.stays.numpy()
    step(optimizer, layer, random_gradients(layer, 0))
    assert judged == [5]
    np.testing.assert_array_equal(layer.stays.numpy(), before)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_state_comes_back_bit_for_bit(name: str, half: bool, tmp_path: Path) -> None:
    """Also with half-precision weights, whose masters are updated in float32."""
    if half and name in ("AdamW", "SGDNesterov"):
        pytest.skip("paddle's kernel for half-precision weights is the GPU's")
    shapes = {"matrix": [70, 80], "convolution": [16, 32, 3, 3], "bias": [9]}
    options = ["beta1=0.9"] if name == "Adafactor" else []
    layers, optimizers = [], []
    for seed in (0, 1):
        paddle.seed(seed)
        layer = Weights(shapes)
        if half:
            layer.to(dtype="bfloat16")
        layers.append(layer)
        optimizers.append(make(layer, name, options, decay=0.1, exempt="bias", o2=half))
    for seed in (0, 1, 2):
        step(optimizers[0], layers[0], random_gradients(layers[0], seed))
    OptimizerState(optimizers[0], layers[0], sharded=False).write(tmp_path)
    layers[1].set_state_dict(layers[0].state_dict())
    load_optimizer(optimizers[1], layers[1], SafetensorsFile(tmp_path / OPTIMIZER))
    assert_equal_states(layers[0], optimizers[0], layers[1], optimizers[1])
    for seed in (3, 4):
        for layer, optimizer in zip(layers, optimizers):
            step(optimizer, layer, random_gradients(layer, seed))
    assert_equal_states(layers[0], optimizers[0], layers[1], optimizers[1])


def assert_equal_states(one: paddle.nn.Layer, first: Any, other: paddle.nn.Layer, second: Any) -> None:
    states = [
        own_state(optimizer, {p.name: name for name, p in layer.named_parameters()})
        for layer, optimizer in ((one, first), (other, second))
    ]
    assert states[0].keys() == states[1].keys()
    assert states[0]
    for key, value in states[0].items():
        np.testing.assert_array_equal(value.numpy(), states[1][key].numpy(), err_msg=key)
    for (key, a), (_, b) in zip(one.named_parameters(), other.named_parameters()):
        np.testing.assert_array_equal(a.astype("float32").numpy(), b.astype("float32").numpy(), err_msg=key)


def test_the_masters_of_half_precision_take_small_steps() -> None:
    """bfloat16 has steps of 0.4 %: 40 steps of 0.03 % add up only in a float32 master."""
    layer = Weights({"weight": [4]})
    layer.weight.set_value(np.ones([4], np.float32))
    layer.to(dtype="bfloat16")
    optimizer = make(layer, "Lion", o2=True)
    layer.weight.optimize_attr["learning_rate"] = 0.03
    for _ in range(40):
        step(optimizer, layer, {"weight": np.ones([4], np.float32)})
    assert layer.weight.dtype == paddle.bfloat16
    np.testing.assert_allclose(layer.weight.astype("float32").numpy(), 1 - 40 * RATE * 0.03, atol=4e-3)  # 2.6.2 cuts


def test_another_optimizers_state_is_refused_by_name(tmp_path: Path) -> None:
    layer = Weights({"weight": [4, 5]})
    first = make(layer, "Lion")
    step(first, layer, random_gradients(layer, 0))
    OptimizerState(first, layer, sharded=False).write(tmp_path)
    saved = SafetensorsFile(tmp_path / OPTIMIZER)
    with pytest.raises(ValueError, match="--optimizer_type Lion, and this run's is Adafactor"):
        load_optimizer(make(layer, "Adafactor"), layer, saved)
    del saved.metadata["optimizer"]  # as checkpoints were before there was a choice
    with pytest.raises(ValueError, match="--optimizer_type AdamW, and this run's is Lion"):
        load_optimizer(make(layer, "Lion"), layer, saved)


def test_state_of_other_options_is_refused(tmp_path: Path) -> None:
    layer = Weights({"weight": [4, 5]})
    first = make(layer, "Adafactor", ["beta1=0.9"])
    step(first, layer, random_gradients(layer, 0))
    OptimizerState(first, layer, sharded=False).write(tmp_path)
    with pytest.raises(
        ValueError, match="weight has column, moment1, row, steps and this run's optimizer keeps column"
    ):
        load_optimizer(make(layer, "Adafactor"), layer, SafetensorsFile(tmp_path / OPTIMIZER))


def test_state_is_as_small_as_said() -> None:
    """Bytes a number of a large convolution."""
    expected = {"AdamW": 8, "AdamW8bit": 2.03, "Lion": 4, "Lion8bit": 1.02, "Adafactor": 0.07, "SGDNesterov": 4}
    for name, most in expected.items():
        layer = Weights({"weight": [64, 64, 3, 3]})
        optimizer = make(layer, name)
        step(optimizer, layer, random_gradients(layer, 0))
        nbytes = OptimizerState(optimizer, layer, sharded=False).nbytes / layer.weight.size
        assert most * 0.95 <= nbytes <= most * 1.01 or (name == "Adafactor" and nbytes < most), (name, nbytes)


def test_names_go_in_any_case() -> None:
    assert [optimizer_name(name) for name in ("adamw", "ADAMW8BIT", "AdaFactor")] == ["AdamW", "AdamW8bit", "Adafactor"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Prodigy", "Adafactor"),
        ("DAdaptAdam", "Adafactor"),
        ("PagedAdamW8bit", "AdamW8bit"),
        ("sgd9", "known are AdamW"),
    ],
)
def test_what_there_is_not_says_what_to_use(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"--optimizer_type {name}: .*{words}"):
        optimizer_name(name)


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("Lion", "eps=1e-8", "Lion takes key=value of betas, weight_decay"),
        ("Lion", "betas", "takes key=value"),
        ("Lion", "betas=0.9", "two numbers"),
        ("Lion", "betas=0.9,1.5", "two numbers"),
        ("Adafactor", "relative_step=1", "True or False"),
        ("Adafactor", "decay_rate=0.8", "from -1 to below 0"),
        ("AdamW", "weight_decay=x", "not a number"),
        ("AdamW", "weight_decay=-1", "at least 0"),
    ],
)
def test_wrong_options_are_named(name: str, word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer_options(name, [word])


def test_options_are_python_values() -> None:
    assert optimizer_options("AdamW", ["betas=0.9,0.99", "weight_decay=1e-2"]) == {
        "betas": (0.9, 0.99),
        "weight_decay": 0.01,
    }


def test_the_log_says_what_eight_bits_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        make(Weights({"weight": [512, 512]}), "AdamW8bit")
    assert "ppsd's own AdamW whose moments are bytes" in caplog.text
    assert "0.001 GB of state, AdamW's would be 0.002 GB" in caplog.text
