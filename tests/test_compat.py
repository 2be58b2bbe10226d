import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppsd import compat
from tests.tiny import tiny_text_encoder

SOURCE = Path(compat.__file__).parent


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def layer_norm_gradient(x: np.ndarray, weight: np.ndarray, upstream: np.ndarray, epsilon: float) -> np.ndarray:
    """dx of LayerNorm over the last axis, from its definition."""
    deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
    normal = (x - x.mean(-1, keepdims=True)) / deviation
    scaled = upstream * weight
    along = (scaled * normal).mean(-1, keepdims=True) * normal
    return (scaled - scaled.mean(-1, keepdims=True) - along) / deviation


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_layer_norm_passes_the_right_gradient_through_a_frozen_weight(frozen, bias):
    rng = np.random.default_rng(0)
    values, upstream = rng.standard_normal((2, 3, 5, 16))
    weight, shift = rng.uniform(0.5, 3, 16), rng.standard_normal(16) * bias
    layer = nn.LayerNorm(16, bias_attr=None if bias else False)
    layer.weight.set_value(weight.astype("float32"))
    if bias:
        layer.bias.set_value(shift.astype("float32"))
    for parameter in layer.parameters():
        parameter.stop_gradient = frozen
    x = paddle.to_tensor(values.astype("float32"), stop_gradient=False)
    y = layer(x)
    y.backward(paddle.to_tensor(upstream.astype("float32")))
    expected = layer_norm_gradient(values, weight, upstream, 1e-5)
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=2e-6)
    normal = (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y.numpy(), normal * weight + shift, atol=2e-6)


def test_frozen_layer_norm_over_several_axes():
    rng = np.random.default_rng(1)
    values, upstream = rng.standard_normal((2, 5, 4, 3))
    weight = rng.uniform(0.5, 3, 12)
    layer = nn.LayerNorm([4, 3])
    layer.weight.set_value(weight.astype("float32"))
    layer.weight.stop_gradient = True
    x = paddle.to_tensor(values.astype("float32"), stop_gradient=False)
    layer(x).backward(paddle.to_tensor(upstream.astype("float32")))
    expected = layer_norm_gradient(values.reshape(5, 12), weight, upstream.reshape(5, 12), 1e-5)
    np.testing.assert_allclose(x.grad.numpy().reshape(5, 12), expected, atol=2e-6)


def test_gradient_of_the_embedding_is_the_same_through_a_frozen_text_encoder():
    encoder = tiny_text_encoder()
    table = encoder.text_model.embeddings.token_embedding.weight
    rng = np.random.default_rng(2)
    for name, parameter in encoder.named_parameters():
        if "layer_norm" in name and name.endswith("weight"):
            parameter.set_value(rng.uniform(0.5, 2, parameter.shape).astype("float32"))
    ids = paddle.to_tensor([[548, 3, 7, 549]])
    gradients = []
    for frozen in (False, True):
        for parameter in encoder.parameters():
            parameter.stop_gradient = frozen and parameter is not table
        encoder(ids)[0].square().sum().backward()
        gradients.append(table.grad.numpy())
        encoder.clear_gradients()
    assert abs(gradients[0]).max() > 0.1
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_loading_torch_weights_writes_nothing(tmp_path):
    encoder = tiny_text_encoder()
    encoder.save_pretrained(str(tmp_path), to_diffusers=True, safe_serialization=True)
    before = sorted(tmp_path.iterdir())
    loaded = type(encoder).from_pretrained(str(tmp_path), from_diffusers=True)
    assert sorted(tmp_path.iterdir()) == before
    ids = paddle.to_tensor([[548, 3, 7, 549]])
    np.testing.assert_allclose(loaded(ids)[0].numpy(), encoder(ids)[0].numpy(), atol=1e-6)


def test_zlib_is_loaded_before_paddle():
    result = run(
        "import ppsd.compat, sys; names = list(sys.modules); print(names.index('zlib') < names.index('paddle'))"
    )
    assert result.stdout.strip() == "True", result.stderr


def test_every_module_that_knows_paddle_is_in_a_room_that_applies_the_cures():
    stack = re.compile(r"^(?:import|from) (?:paddle|ppdiffusers)", re.MULTILINE)
    modules = [path for path in SOURCE.glob("*/*.py") if stack.search(path.read_text(encoding="utf-8"))]
    assert len(modules) > 5
    for path in modules:
        if path.parent.name == "launch":  # it only starts processes: no layer, no checkpoint
            continue
        texts = [file.read_text(encoding="utf-8") for file in (path, path.with_name("__init__.py"))]
        known = "import ppsd.compat" in texts[0] or "compat.apply()" in texts[1]
        assert known, f"{path} may load paddle before compat"


def test_importing_the_stack_says_nothing():
    result = run("import ppsd.trainers, paddlenlp, ppdiffusers")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this paddle may have the kernel")
def test_fused_linear_is_refused_where_there_is_no_kernel():
    linear = nn.Linear
    with pytest.raises(ValueError, match=r"FLAG_FUSED_LINEAR needs a GPU.* on cpu"):
        compat.use_fused_linear()
    assert nn.Linear is linear


def test_fused_linear_replaces_linear_where_there_is_one(monkeypatch):
    from paddle.incubate.nn import FusedLinear

    monkeypatch.setattr(nn, "Linear", nn.Linear)
    monkeypatch.setattr(FusedLinear, "forward", lambda self, x: nn.functional.linear(x, self.weight, self.bias))
    compat.use_fused_linear()
    encoder = tiny_text_encoder()
    kinds = {type(layer) for layer in encoder.sublayers() if "Linear" in type(layer).__name__}
    assert kinds == {FusedLinear}


def test_recompute_that_does_not_work_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Recompute with RNG perserve is not support current device: cpu.")

    monkeypatch.setattr("paddle.distributed.fleet.utils.recompute", fail)
    with pytest.raises(ValueError, match=r"--recompute: paddle .* cannot recompute on cpu"):
        compat.require_recompute()


@pytest.mark.parametrize(("rank", "first"), [(0, ["wandb", 1, 0]), (1, [0, 0, 0])])
def test_leaving_the_process_group(rank: int, first: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process finishes wandb and says so; the others ask the store until then; exiting comes last."""
    done: list[Any] = []
    answers = iter([0, 0, 1])

    class Store:
        def add(self, key: str, number: int) -> int:
            done.append(number)
            return next(answers) if rank else 1

    monkeypatch.setattr(paddle.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(paddle.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(paddle.distributed, "barrier", lambda: done.append("barrier"))
    monkeypatch.setattr(paddle.base.core, "create_or_get_global_tcp_store", Store)
    monkeypatch.setattr(compat.os, "_exit", lambda code: done.append(("exit", code)))
    monkeypatch.setattr(compat.logging, "shutdown", lambda: done.append("logs"))
    wandb = SimpleNamespace(run=1, finish=lambda: done.append("wandb"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    compat.leave_process_group()
    assert done == [*first, "barrier", "logs", ("exit", 0)]
