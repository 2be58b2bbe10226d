"""What adapters leave out in training: features, ranks or everything."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppsd.adapters.algorithms import ALGORITHMS
from ppsd.adapters.base import DORA, Adapter, Dropout

FACTORS = {
    "lora": {"lora_down.weight": (3, 6), "lora_up.weight": (8, 3)},
    "loha": {"hada_w1_a": (8, 3), "hada_w1_b": (3, 6), "hada_w2_a": (8, 3), "hada_w2_b": (3, 6)},
    "lokr": {"lokr_w1": (2, 2), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 3)},
    "dora": {"lora_down.weight": (3, 6), "lora_up.weight": (8, 3), DORA: (8, 1)},
}


def adapter_and_layer(kind: str, dropout: Dropout) -> tuple[Adapter, nn.Layer]:
    """Random factors for a Linear of 6 to 8 features."""
    rng = np.random.default_rng(3)
    factors = {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in FACTORS[kind].items()}
    paddle.seed(11)
    layer = nn.Linear(6, 8)
    return ALGORITHMS[kind.replace("dora", "lora")](factors, [8, 6], dropout), layer


def draws(kind: str, dropout: Dropout, count: int = 500, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the output in `count` steps [count,batch,2,8], and what is without dropout [2,8]."""
    adapter, layer = adapter_and_layer(kind, dropout)
    x = paddle.to_tensor(np.random.default_rng(4).uniform(0.5, 1.5, (1, 2, 6)).astype(np.float32))
    with paddle.no_grad():
        adapter.eval()
        plain = adapter(x, layer).numpy()[0]
        adapter.train()
        drawn = np.stack([adapter(x.expand([batch, 2, 6]), layer).numpy() for _ in range(count)])
    return drawn, plain


@pytest.mark.parametrize("kind", FACTORS)
def test_dropout_is_of_training_only(kind: str) -> None:
    adapter, layer = adapter_and_layer(kind, Dropout(0.5, 0.5, 0.5))
    plain, _ = adapter_and_layer(kind, Dropout())
    x = paddle.ones([2, 6])
    adapter.eval()
    assert np.array_equal(adapter(x, layer).numpy(), plain(x, layer).numpy())
    adapter.train()
    assert not all(np.array_equal(adapter(x, layer).numpy(), plain(x, layer).numpy()) for _ in range(5))
    weight = layer.weight.T
    assert np.array_equal(adapter.delta(weight).numpy(), plain.delta(weight).numpy())  # merged, nothing is left out


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("dropout", [Dropout(features=0.4), Dropout(rank=0.4)])
def test_what_is_left_is_scaled_up_so_that_the_mean_stays(kind: str, dropout: Dropout) -> None:
    drawn, plain = draws(kind, dropout)
    # One draw deviates by sqrt(0.4 / 0.6) = 0.82 of its value at most, the mean of 500 by 0.037: five times that.
    assert np.abs(drawn.mean(axis=(0, 1)) / plain - 1).max() < 0.19
    assert drawn.std(axis=0).min() > 0


def test_lora_loses_ranks_of_each_sample() -> None:
    adapter, layer = adapter_and_layer("lora", Dropout(rank=0.25))
    adapter.lora_up.weight.set_value(np.eye(8, 3, dtype=np.float32))  # so that an output shows a rank
    x = paddle.ones([400, 5, 6])
    ratio = adapter(x, layer).numpy()[:, :, :3] / (adapter.lora_down.weight.numpy().sum(axis=1) * adapter.scale)
    assert np.array_equal(ratio, np.broadcast_to(ratio[:, :1], ratio.shape))  # at every position of a sample
    values = np.unique(ratio.round(4))
    assert values.tolist() == pytest.approx([0, 1 / 0.75], abs=1e-3)
    assert (ratio[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.07)
    assert len(np.unique(ratio[:, 0].round(4), axis=0)) == 8  # every set of ranks is some sample's


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_others_lose_outputs_of_the_whole_batch(kind: str) -> None:
    drawn, plain = draws(kind, Dropout(rank=0.25), count=100, batch=3)
    ratio = (drawn / plain).round(3)
    assert np.array_equal(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape))
    assert np.unique(ratio).tolist() == pytest.approx([0, 1.333], abs=2e-3)
    assert (ratio[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.08)


def test_lokr_loses_channels_of_a_convolution() -> None:
    rng = np.random.default_rng(5)
    factors = {"lokr_w1": rng.uniform(1, 2, (2, 2)), "lokr_w2": rng.uniform(1, 2, (4, 3, 3, 3))}
    adapter = ALGORITHMS["lokr"](factors, [8, 6, 3, 3], Dropout(rank=0.5))
    out = adapter(paddle.ones([2, 6, 4, 5]), nn.Conv2D(6, 8, 3, padding=1)).numpy()
    lost = (out == 0).reshape(2, 8, -1)
    assert np.array_equal(lost, np.broadcast_to(lost[:1, :, :1], lost.shape))
    assert 0 < lost[0, :, 0].sum() < 8


def test_a_dora_loses_rows_before_lengths_are_set() -> None:
    """A row that gets no change still gets the length that was learned."""
    adapter, layer = adapter_and_layer("dora", Dropout(rank=0.5))
    added = adapter(paddle.eye(6), layer).numpy().T  # the change of the weight
    weight, lengths = layer.weight.numpy().T, adapter.dora_scale.numpy()
    kept = adapter.product().numpy() * adapter.scale * 2
    with_row = (weight + kept) * lengths / np.linalg.norm(weight + kept, axis=1, keepdims=True) - weight
    without_row = weight * lengths / np.linalg.norm(weight, axis=1, keepdims=True) - weight
    is_with, is_without = (np.abs(added - expected).max(axis=1) < 1e-5 for expected in (with_row, without_row))
    assert (is_with ^ is_without).all()
    assert is_with.any()
    assert is_without.any()


@pytest.mark.parametrize("kind", FACTORS)
def test_a_module_adds_all_or_nothing(kind: str) -> None:
    drawn, plain = draws(kind, Dropout(module=0.3), count=300, batch=2)
    nothing = (drawn == 0).all(axis=(1, 2, 3))
    assert nothing.mean() == pytest.approx(0.3, abs=0.1)
    assert np.allclose(drawn[~nothing], plain, rtol=1e-5)  # not scaled up, as in kohya's and LyCORIS


@pytest.mark.parametrize("kind", FACTORS)
def test_a_module_that_adds_nothing_has_gradients_of_0(kind: str) -> None:
    adapter, layer = adapter_and_layer(kind, Dropout(module=1.0))
    adapter(paddle.ones([2, 6]), layer).sum().backward()
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in adapter.parameters())
