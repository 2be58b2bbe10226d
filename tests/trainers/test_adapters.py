"""A run that trains adapters: nothing of the models changes, nothing but adapters is saved, cut anywhere."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest

from ppsd.models.bundle import load_bundle
from ppsd.models.saving import read_weights
from ppsd.trainers.trained import frozen_weights
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.trainers.adapter_runs import built, factors, learn, network, saved
from tests.trainers.conftest import Run, assert_same_weights, losses

compat.apply()

EVERYWHERE = {"train_text_encoder": True, "conv_dim": 2, "network_alpha": 1}
DROPOUTS = {"network_dropout": 0.2, "rank_dropout": 0.2, "module_dropout": 0.2}


def test_the_models_stay_bit_for_bit_and_keep_their_names(tiny_run: Run, tmp_path: Path) -> None:
    trainer, base = learn(tiny_run, tmp_path, **EVERYWHERE, max_steps=2), load_bundle(str(tiny_run.pipeline))
    for part in ("unet", "text_encoder", "vae"):
        before, after = getattr(base, part).state_dict(), getattr(trainer.bundle, part).state_dict()
        assert_same_weights(*({name: p.numpy() for name, p in found.items()} for found in (before, after)))
    assert frozen_weights(trainer.bundle, whole=False) == {}, "and are not kept for a pipeline that is never saved"
    trained = {name for name, p in trainer.step.named_parameters() if not p.stop_gradient}
    assert trained == {f"adapter.{name}" for name, _ in network(trainer).named_parameters()}


def test_a_checkpoint_holds_the_adapter_and_is_a_file_to_use(tiny_run: Run, tmp_path: Path) -> None:
    trainer = learn(tiny_run, tmp_path, **EVERYWHERE, max_steps=1)
    checkpoint = tmp_path / "checkpoint-1"
    assert [path.name for path in checkpoint.iterdir() if path.is_dir()] == ["adapter"]
    assert [path.name for path in (checkpoint / "adapter").iterdir()] == ["weights.safetensors"]
    file = saved(checkpoint)
    expected = {f"{name}.{leaf}" for name, _, a in network(trainer).named_adapters() for leaf in a.factors()}
    assert set(file) == expected
    assert "lora_unet_mid_block_attentions_0_proj_in.alpha" in file
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha" in file
    state = {name.rsplit(".", 1)[0] for name in read_weights(checkpoint / "optimizer.safetensors")}
    assert state == {f"adapter.{name}" for name in file if not name.endswith(".alpha")}
    assert not list(tmp_path.glob("**/model_index.json"))


@pytest.mark.parametrize(
    "flags",
    [
        DROPOUTS,
        {**EVERYWHERE, **DROPOUTS, "use_ema": True, "dataloader_num_workers": 1},
        {"use_dora": True, "loraplus_lr_ratio": 4},
        {"network_module": "loha", **DROPOUTS},
        {"network_module": "lokr", **DROPOUTS, "network_dim": 1},
    ],
    ids=["dropout", "everywhere", "dora", "loha", "lokr"],
)
def test_a_killed_run_goes_on_as_if_never_killed(tiny_run: Run, tmp_path: Path, flags: dict[str, Any]) -> None:
    """What is dropped out is drawn at random, from a state that checkpoints keep."""
    whole = learn(tiny_run, tmp_path, **flags)
    file = tmp_path / f"{tmp_path.name}.safetensors"
    expected, exported = saved(tmp_path / "checkpoint-6"), read_weights(file)
    shutil.rmtree(tmp_path / "checkpoint-6")
    again = learn(tiny_run, tmp_path, **flags)
    assert again.begun_at == 3
    assert losses(again) == losses(whole)
    assert_same_weights(saved(tmp_path / "checkpoint-6"), expected)
    assert_same_weights(read_weights(file), exported)


def test_the_average_is_of_the_adapter_and_is_what_is_exported(tiny_run: Run, tmp_path: Path) -> None:
    trainer = learn(tiny_run, tmp_path, use_ema=True)
    assert trainer.ema is not None
    average = read_weights(tmp_path / "checkpoint-6" / "adapter" / "weights.ema.safetensors")
    now = saved(tmp_path / "checkpoint-6")
    ups = [name for name in now if name.endswith("lora_up.weight")]
    assert all(np.abs(average[name]).mean() < np.abs(now[name]).mean() for name in ups), "it comes from 0, and later"
    exported = read_weights(tmp_path / f"{tmp_path.name}.safetensors")
    for name in ups:
        np.testing.assert_array_equal(exported[name], average[name])
    before = {name: p.numpy() for name, p in network(trainer).state_dict().items()}
    with trainer.ema.applied():
        applied = {name: p.numpy() for name, p in network(trainer).named_parameters()}
    np.testing.assert_array_equal(applied[ups[0]], average[ups[0]])
    assert_same_weights({name: p.numpy() for name, p in network(trainer).state_dict().items()}, before)


def test_without_an_average_the_last_factors_are_exported(tiny_run: Run, tmp_path: Path) -> None:
    trainer = learn(tiny_run, tmp_path, max_steps=2)
    exported = read_weights(tmp_path / f"{tmp_path.name}.safetensors")
    for name, _, adapter in network(trainer).named_adapters():
        for leaf, value in adapter.factors().items():
            np.testing.assert_array_equal(exported[f"{name}.{leaf}"], value)


@pytest.fixture(scope="module")
def done(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's output folder, with a checkpoint."""
    folder = tmp_path_factory.mktemp("done")
    learn(tiny_run, folder, max_steps=1)
    return folder


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"network_alpha": 3}, "--network_alpha: .* has alpha 2 at .*, this run 3; continue with the same one"),
        (
            {"network_dim": 3, "network_alpha": 2},
            "--network_module: .* holds adapters of other layers or ranks .*; continue with the same",
        ),
        ({"network_preset": "attn-only"}, "--network_module: .* holds adapters of other layers or ranks"),
        ({"conv_dim": 2}, "--network_module: .* holds adapters of other layers or ranks"),
        (
            {"network_module": "loha", "conv_dim": 0, "network_preset": "attn-mlp"},
            "--network_module: .* holds adapters of other layers",
        ),
        ({"use_dora": True}, "--network_module: .* holds adapters of other layers or ranks"),
        ({"train_text_encoder": True}, "--network_module: .* holds adapters of other layers or ranks"),
    ],
)
def test_another_adapter_does_not_go_on_from_a_checkpoint(
    done: Path, tiny_run: Run, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learn(tiny_run, done, **flags, max_steps=2)


def gradients(trainer: StableDiffusionTrainer) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Of one batch, with adapters that all add something, and how often each has computed; always the same dropout."""
    rng = np.random.default_rng(5)
    for parameter in network(trainer).parameters():
        parameter.set_value(rng.normal(0, 0.1, parameter.shape).astype("float32"))
    counts: Counter[str] = Counter()
    for name, _, adapter in network(trainer).named_adapters():
        adapter.register_forward_pre_hook(lambda *_, name=name: counts.update([name]))
    trainer.step.train()
    paddle.seed(3)
    trainer.compute_loss(trainer.step, next(iter(trainer.make_loader(None)))).backward()
    return {name: p.grad.numpy() for name, p in network(trainer).named_parameters()}, counts


@pytest.mark.parametrize(
    "flags", [{}, {"network_train_text_encoder_only": True}, {**EVERYWHERE, **DROPOUTS}, {**EVERYWHERE, "clip_skip": 2}]
)
def test_recomputing_gives_the_same_gradients(tiny_run: Run, tmp_path: Path, flags: dict[str, Any]) -> None:
    """Of adapters in blocks whose input needs none, too, as in the text encoder's first layer."""
    try:
        compat.require_recompute()
    except ValueError:
        pytest.skip("this paddle cannot recompute here")
    expected, once = gradients(built(tiny_run, tmp_path, **flags))
    found, counts = gradients(built(tiny_run, tmp_path, **flags, recompute=True))
    assert set(once.values()) == {1}
    assert set(counts.values()) == {1, 2}, "some in blocks whose input needs no gradient, or in no block"
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 0 or "module_dropout" in flags, name
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-7, err_msg=name)


def test_accumulation_is_the_same_step_as_one_large_batch(tiny_run: Run, tmp_path: Path) -> None:
    one = learn(tiny_run, tmp_path / "a", **EVERYWHERE)
    two = learn(tiny_run, tmp_path / "b", **EVERYWHERE, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    np.testing.assert_allclose(losses(one), losses(two), rtol=1e-5)
    other = factors(two)
    for key, value in factors(one).items():
        np.testing.assert_allclose(other[key], value, atol=5e-5, err_msg=str(key))


def test_a_finished_run_exports_again_what_its_checkpoint_says(tiny_run: Run, tmp_path: Path) -> None:
    learn(tiny_run, tmp_path, max_steps=2)
    file = tmp_path / f"{tmp_path.name}.safetensors"
    first = read_weights(file)
    file.unlink()
    learn(tiny_run, tmp_path, max_steps=2)
    assert_same_weights(read_weights(file), first)


def test_a_run_of_models_does_not_go_on_with_adapters(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, unet_name_or_path=None, max_steps=1)
    with pytest.raises(ValueError, match=r"--network_module: .*checkpoint-1 was saved without training it; leave"):
        learn(tiny_run, tmp_path, max_steps=2)
    learn(tiny_run, tmp_path, max_steps=1, overwrite_output_dir=True)
    with pytest.raises(ValueError, match=r"--network_module: .*checkpoint-1 holds a trained adapter; add the flag"):
        tiny_run.train(tmp_path, unet_name_or_path=None, max_steps=2)


def test_a_rate_of_whole_models_is_warned_of(tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learn(tiny_run, tmp_path / "low", learning_rate=5e-6, max_steps=1)
    assert "--learning_rate 5e-06 is one for whole models" in caplog.text
    caplog.clear()
    learn(tiny_run, tmp_path / "usual", learning_rate=1e-4, max_steps=1)
    assert "is one for whole models" not in caplog.text
