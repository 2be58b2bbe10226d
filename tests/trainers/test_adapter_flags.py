"""Every flag that says which adapters there are, and of which size, does what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest

from ppsd.adapters.layers import adaptable, weight_of
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.trainers.adapter_runs import CLIP_LAYERS, built, factors, learn, network, places, saved
from tests.trainers.conftest import Run, losses, weights

compat.apply()


@pytest.fixture(scope="module")
def plain(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of three steps of LoRA; before the first it adds nothing."""
    return losses(learn(tiny_run, tmp_path_factory.mktemp("plain"), max_steps=3))


def layers_of(run: Run, part: str = "unet") -> set[str]:
    """Paths of the linear layers and convolutions, by the shapes of the weights on disk."""
    found = weights(run.pipeline, part)
    return {
        name[: -len(".weight")]
        for name, value in found.items()
        if name.endswith(".weight") and value.ndim > 1 and "embedding.weight" not in name and "embeddings." not in name
    }


def large(run: Run, paths: Iterable[str]) -> set[str]:
    """Those that are 3 x 3."""
    found = weights(run.pipeline)
    return {path for path in paths if math.prod(found[f"{path}.weight"].shape[2:]) > 1}


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        ({}, r"\.attentions\."),
        ({"network_preset": "attn-only"}, r"\.attn[12]\."),
        ({"network_module": "locon"}, "."),
        ({"network_module": "locon", "conv_dim": 0}, r"^(?!.*(conv[12_]|conv$)).|conv_shortcut"),
        ({"conv_dim": 2}, r"_blocks?\."),
        ({"network_preset": "unet-convblock-only"}, r"resnets|samplers"),
        ({"network_preset": "unet-transformer-only"}, r"\.attentions\."),
        ({"network_targets": [r"attn2\.to_[kv]$", "^conv_in$"], "conv_dim": 1}, r"attn2\.to_[kv]$|^conv_in$"),
        ({"network_targets": ["."]}, "."),
    ],
)
def test_which_layers_have_one(tiny_run: Run, tmp_path: Path, flags: dict[str, Any], pattern: str) -> None:
    expected = {path for path in layers_of(tiny_run) if re.search(pattern, path)}
    trainer = built(tiny_run, tmp_path, **flags)
    assert places(trainer) == expected
    assert len(expected) >= 3
    assert not places(trainer, "text_encoder")


def test_text_encoders_have_them_too_or_alone(tiny_run: Run, tmp_path: Path) -> None:
    clip = {path for path in layers_of(tiny_run, "text_encoder") if path.endswith(CLIP_LAYERS)}
    assert len(clip) == 12
    both = built(tiny_run, tmp_path / "a", train_text_encoder=True)
    assert places(both, "text_encoder") == clip
    assert places(both) == {path for path in layers_of(tiny_run) if ".attentions." in path}
    alone = built(tiny_run, tmp_path / "b", network_train_text_encoder_only=True)
    assert places(alone, "text_encoder") == clip
    assert not places(alone)
    attention = built(tiny_run, tmp_path / "c", network_train_text_encoder_only=True, network_preset="attn-only")
    assert places(attention, "text_encoder") == {path for path in clip if "self_attn" in path}
    assert not places(built(tiny_run, tmp_path / "d", network_train_unet_only=True), "text_encoder")
    with pytest.raises(ValueError, match="--network_preset unet-transformer-only has no layer in text_encoder"):
        built(tiny_run, tmp_path, network_train_text_encoder_only=True, network_preset="unet-transformer-only")


def test_layers_that_clip_skip_passes_over_have_none(tiny_run: Run, tmp_path: Path) -> None:
    trainer = learn(tiny_run, tmp_path, train_text_encoder=True, clip_skip=2, max_steps=2)
    assert {path.split(".")[3] for path in places(trainer, "text_encoder")} == {"0"}
    ups = [value for (place, leaf), value in factors(trainer).items() if "up" in leaf and place.part != "unet"]
    assert len(ups) == 6
    assert all(value.any() for value in ups), "and the others all learn"


def test_ranks_and_alphas(tiny_run: Run, tmp_path: Path) -> None:
    trainer = built(tiny_run, tmp_path, rank=3, network_dim=None, network_alpha=6, conv_dim=2, conv_alpha=1)
    wide = large(tiny_run, places(trainer))
    assert 0 < len(wide) < len(places(trainer))
    for place, adapter in network(trainer).adapters.items():
        expected = (2, 1.0) if place.path in wide else (3, 6.0)
        assert (adapter.rank, adapter.alpha) == expected, place.path
    inherited = built(tiny_run, tmp_path, network_dim=4, network_alpha=2, conv_dim=2)
    assert {adapter.scale for adapter in network(inherited).adapters.values()} == {0.5}
    zero = built(tiny_run, tmp_path, network_dim=4, network_alpha=2, conv_dim=2, conv_alpha=0)
    scales = {adapter.scale for place, adapter in network(zero).adapters.items() if place.path in wide}
    assert scales == {1.0}, "0 is the rank, as in kohya's scripts"
    usual = built(tiny_run, tmp_path, network_dim=4, network_module="locon")
    assert {adapter.scale for adapter in network(usual).adapters.values()} == {1.0}


def test_alpha_is_the_scale_of_what_is_saved(tiny_run: Run, tmp_path: Path) -> None:
    """By the formula of kohya's files, from the checkpoint alone."""
    trainer = learn(tiny_run, tmp_path, max_steps=2, network_alpha=5)
    file = saved(tmp_path / "checkpoint-2")
    for name, _, adapter in network(trainer).named_adapters():
        up, down = (file[f"{name}.lora_{side}.weight"].reshape(-1, 2) for side in ("up", "down"))
        down = file[f"{name}.lora_down.weight"].reshape(2, -1)
        delta = up @ down * float(file[f"{name}.alpha"]) / 2
        assert float(file[f"{name}.alpha"]) == 5
        assert np.abs(delta).max() > 0
        np.testing.assert_allclose(adapter.delta().numpy().reshape(delta.shape), delta, rtol=1e-4, atol=1e-9)
    other = learn(tiny_run, tmp_path / "b", max_steps=3, network_alpha=1)
    same = learn(tiny_run, tmp_path / "c", max_steps=3, network_alpha=5)
    assert losses(other)[0] == losses(same)[0], "nothing is added yet"
    assert losses(other)[2] != losses(same)[2]


def test_the_narrow_ends_of_a_unet_have_the_rank_that_they_have_room_for(tiny_run: Run, tmp_path: Path) -> None:
    """With the same scale, where the preset takes them; a rank above the inner layers' is an error."""
    trainer = built(tiny_run, tmp_path, network_module="locon", network_dim=8, network_alpha=4)
    ranks = {place.path: (adapter.rank, adapter.scale) for place, adapter in network(trainer).adapters.items()}
    assert ranks["conv_out"] == (4, 0.5)
    assert {rank for path, rank in ranks.items() if path != "conv_out"} == {(8, 0.5)}
    message = r"--network_dim is 9, and down_blocks\.\S+ of the unet is 8 x \d+(\D*1){0,2}: rank 8 already holds any"
    with pytest.raises(ValueError, match=message):
        built(tiny_run, tmp_path, network_dim=9)
    with pytest.raises(ValueError, match=r"--conv_dim is 9, and .* is 8 x 8 x 3 x 3"):
        built(tiny_run, tmp_path, conv_dim=9)


@pytest.mark.parametrize(
    ("flags", "leaves"),
    [
        ({}, "lora_down.weight lora_up.weight"),
        ({"network_module": "locon"}, "lora_down.weight lora_up.weight"),
        ({"network_module": "locon", "use_tucker": True}, "lora_down.weight lora_up.weight lora_mid.weight"),
        ({"use_dora": True}, "lora_down.weight lora_up.weight dora_scale"),
        ({"network_module": "loha"}, "hada_w1_a hada_w1_b hada_w2_a hada_w2_b"),
        ({"network_module": "loha", "use_tucker": True}, "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2"),
        ({"network_module": "lokr", "network_dim": 1}, "lokr_w1 lokr_w2_a lokr_w2_b"),
        ({"network_module": "lokr", "network_dim": 8}, "lokr_w1 lokr_w2"),
        (
            {"network_module": "lokr", "network_dim": 1, "decompose_both": True},
            "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b",
        ),
        ({"network_module": "lokr", "network_dim": 1, "use_dora": True}, "lokr_w1 lokr_w2_a lokr_w2_b dora_scale"),
    ],
)
def test_every_algorithm_begins_at_the_base_and_learns_with_all_factors(
    tiny_run: Run, tmp_path: Path, flags: dict[str, Any], leaves: str, plain: list[float]
) -> None:
    changes = {"network_dim": 2, **flags, "max_steps": 3, "train_text_encoder": True}
    trainer = learn(tiny_run, tmp_path / "a", **changes)
    found, before = factors(trainer), factors(built(tiny_run, tmp_path / "b", **changes))
    assert {leaf for _, leaf in found} == {*leaves.split(), "alpha"}
    np.testing.assert_allclose(losses(trainer)[0], plain[0], rtol=1e-6)
    for (place, leaf), value in found.items():
        moved = not np.array_equal(value, before[place, leaf])
        assert moved == (leaf != "alpha"), (place, leaf)


def test_dora_begins_with_the_lengths_of_the_layers(tiny_run: Run, tmp_path: Path) -> None:
    trainer = built(tiny_run, tmp_path, use_dora=True, conv_dim=1)
    layers = dict(adaptable(trainer.bundle.unet))
    for place, adapter in network(trainer).adapters.items():
        weight = weight_of(layers[place.path]).numpy()
        lengths = np.sqrt((weight.astype(np.float64) ** 2).reshape(len(weight), -1).sum(1))
        np.testing.assert_allclose(adapter.factors()["dora_scale"].ravel(), lengths, rtol=1e-6)


def test_the_factor_of_lokr_is_the_size_of_its_smaller_matrix(tiny_run: Run, tmp_path: Path) -> None:
    sizes = {}
    for factor in (-1, 2):
        trainer = built(tiny_run, tmp_path, network_module="lokr", factor=factor, network_targets=["mid_block.*to_q"])
        sizes[factor] = {value.shape for (_, leaf), value in factors(trainer).items() if leaf == "lokr_w1"}
    assert sizes == {-1: {(4, 4)}, 2: {(2, 2)}}, "of 16 x 16"


@pytest.mark.parametrize(
    ("kohya", "flags"),
    [
        ({"network_module": "networks.lora"}, {"network_module": "lora"}),
        ({"network_module": "lycoris.kohya"}, {"network_module": "locon"}),
        (
            {"network_module": "lycoris.kohya", "network_args": ["algo=lora", "preset=attn-mlp"]},
            {"network_module": "locon", "network_preset": "attn-mlp"},
        ),
        (
            {"network_module": "lycoris.kohya", "network_args": ["algo=loha", "conv_dim=1", "conv_alpha=0.5"]},
            {"network_module": "loha", "conv_dim": 1, "conv_alpha": 0.5},
        ),
        (
            {"network_module": "lycoris.kohya", "network_args": ["algo=lokr", "factor=2", "decompose_both=True"]},
            {"network_module": "lokr", "factor": 2, "decompose_both": True},
        ),
        (
            {"network_module": "networks.lora", "network_args": ["conv_dim=2", "conv_alpha=1", "dora_wd=True"]},
            {"network_module": "lora", "conv_dim": 2, "conv_alpha": 1.0, "use_dora": True},
        ),
        (
            {"network_module": "networks.lora", "network_args": ["conv_dim=2 conv_alpha=1", "up_lr_weight=0, 1, 0, 1"]},
            {"network_module": "lora", "conv_dim": 2, "conv_alpha": 1.0, "up_lr_weight": [0, 1, 0, 1]},
        ),
        (
            {"network_module": "networks.lora", "network_args": ["conv_dim=1", "use_cp=true", "mid_lr_weight=0"]},
            {"network_module": "lora", "conv_dim": 1, "use_tucker": True, "mid_lr_weight": 0},
        ),
        (
            {"network_module": "networks.lora", "network_args": ["up_lr_weight=0,1,0,1", "rank_dropout=0.5"]},
            {"network_module": "lora", "up_lr_weight": [0, 1, 0, 1], "rank_dropout": 0.5},
        ),
    ],
)
def test_kohyas_way_to_say_it(tiny_run: Run, tmp_path: Path, kohya: dict[str, Any], flags: dict[str, Any]) -> None:
    one, other = built(tiny_run, tmp_path, **kohya), built(tiny_run, tmp_path, **flags)
    first, second = factors(one), factors(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    assert [vars(each)["dropout"] for each in network(one).adapters.values()] == [
        vars(each)["dropout"] for each in network(other).adapters.values()
    ]
    for name in flags:
        assert getattr(one.run.model, name) == getattr(other.run.model, name), name


@pytest.mark.parametrize("flag", ["network_dropout", "rank_dropout", "module_dropout"])
def test_dropouts_act_in_training_alone(tiny_run: Run, tmp_path: Path, flag: str, plain: list[float]) -> None:
    """A preview is drawn by all of the adapter, and drawing it changes nothing."""
    dropping = learn(tiny_run, tmp_path / "b", max_steps=3, **{flag: 0.5})
    previews = {"image_logging_steps": 1, "num_inference_steps": 1, "validation_prompts": "a"}
    drawing = learn(tiny_run, tmp_path / "c", max_steps=3, **{flag: 0.5}, **previews)
    assert losses(dropping)[0] == plain[0], "nothing is added yet"
    assert losses(dropping)[2] != plain[2]
    assert losses(dropping) == losses(drawing)
    for name, value in saved(tmp_path / "b" / "checkpoint-3").items():
        np.testing.assert_array_equal(saved(tmp_path / "c" / "checkpoint-3")[name], value)
    assert_draws_as_without_dropout(dropping)


def assert_draws_as_without_dropout(trainer: StableDiffusionTrainer) -> None:
    step, x, hidden = trainer.step, paddle.ones([2, 4, 8, 8]), paddle.ones([2, 77, 16])

    def out() -> np.ndarray:
        return np.asarray(step.unet(x, paddle.to_tensor([5, 9]), hidden).sample.numpy())

    step.train()
    with paddle.no_grad():
        assert not np.array_equal(out(), out()), "in training each pass is another"
        step.unet.eval()
        drawn = out()
        network(trainer).eval()
        np.testing.assert_array_equal(drawn, out())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"network_module": "dylora"}, "--network_module is dylora; it must be lora or locon or loha or lokr"),
        ({"network_preset": "all"}, "--network_preset is all; it must be attn-only or"),
        ({"network_dim": 0}, "--network_dim is 0; it must be at least 1"),
        ({"network_alpha": -1}, r"--network_alpha is -1\.0; it must be at least 0"),
        ({"conv_dim": -1}, "--conv_dim is -1; it must be at least 0"),
        ({"rank_dropout": 1}, r"--rank_dropout is 1\.0; it must be at least 0 and below 1"),
        ({"network_targets": ["to_q", "to_z"]}, "--network_targets to_z: no layer of the trained parts has that"),
        (
            {"network_targets": ["conv_in"], "conv_dim": 0},
            "--network_targets conv_in: .*larger than 1 x 1 need --conv_dim",
        ),
        ({"network_targets": ["(to_q"]}, r"--network_targets \(to_q: no regular expression: missing \)"),
        ({"network_targets": ["to_q"], "network_preset": "full"}, "--network_preset and --network_targets exclude"),
        ({"factor": 4}, "--factor and --decompose_both are of lokr, not of lora"),
        ({"decompose_both": True}, "--factor and --decompose_both are of lokr, not of lora"),
        ({"network_module": "lokr", "factor": 0}, "--factor is 0; it must be -1 or at least 1"),
        ({"network_module": "loha", "loraplus_lr_ratio": 2}, "--loraplus_lr_ratio is of lora and locon, not of loha"),
        ({"loraplus_lr_ratio": 0}, r"--loraplus_lr_ratio is 0\.0; it must be above 0"),
        ({"use_tucker": True}, "--use_tucker is for convolutions larger than 1 x 1: give --conv_dim"),
        ({"conv_alpha": 1}, "--conv_alpha is for convolutions larger than 1 x 1: give --conv_dim"),
        ({"conv_dim": 2, "network_preset": "attn-mlp"}, "--conv_dim 2: no convolution larger than 1 x 1 gets an"),
        (
            {"train_text_encoder": True, "network_preset": "unet-transformer-only"},
            "--network_preset unet-transformer-only has no layer in text_encoder: leave --train_text_encoder out",
        ),
        (
            {"train_text_encoder": True, "network_targets": ["self_attn"]},
            "--network_targets has no layer in unet: give --network_train_text_encoder_only",
        ),
        (
            {"network_train_text_encoder_only": True, "mid_lr_weight": 0.5},
            "--mid_lr_weight is of the UNet, and --network_train_text_encoder_only leaves it out",
        ),
        (
            {"network_train_text_encoder_only": True, "unet_lr": 0.3},
            "--unet_learning_rate: --network_train_text_encoder_only leaves the UNet alone",
        ),
        ({"down_lr_weight": [1, 1]}, "--down_lr_weight has 2 numbers; this UNet's down blocks need 4"),
        ({"up_lr_weight": [1] * 12}, "--up_lr_weight has 12 numbers; this UNet's up blocks need 4"),
        ({"up_lr_weight": [1, -1, 1, 1]}, "--down_lr_weight, --mid_lr_weight and --up_lr_weight must be at least 0"),
        ({"down_lr_weight": [0] * 4, "up_lr_weight": [0] * 4, "mid_lr_weight": 0}, "leave no layer to train"),
        ({"network_train_unet_only": True, "train_text_encoder": True}, "--network_train_unet_only and training"),
        (
            {"network_train_unet_only": True, "network_train_text_encoder_only": True},
            "--network_train_unet_only and training",
        ),
        ({"only_save_updated_model": False}, "--only_save_updated_model False: with --network_module"),
        ({"class_prompt": "a dog"}, "--class_prompt is of DreamBooth: give --instance_data_dir, or leave it out"),
        ({"text_encoder_lr": 1e-5}, "--text_encoder_learning_rate: the text encoder is not trained"),
    ],
)
def test_what_cannot_work_is_refused(tiny_run: Run, tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(tiny_run, tmp_path, **flags)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("block_size=4", r"--network_args block_size=4: it must be key=value, with one of the keys algo, .*conv_dim"),
        ("conv_dim", "--network_args conv_dim: it must be key=value"),
        ("conv_dim=four", "--network_args conv_dim=four: 'four' is no value for it"),
        ("use_cp=perhaps", "--network_args use_cp=perhaps: 'perhaps' is no value for it"),
        ("up_lr_weight=1,x", "--network_args up_lr_weight=1,x: '1,x' is no value for it"),
    ],
)
def test_a_wrong_word_of_kohyas_is_named(
    tiny_run: Run, tmp_path: Path, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        built(tiny_run, tmp_path, network_args=[word])
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("flag", ["network_dim", "use_dora", "conv_dim", "network_args", "loraplus_lr_ratio"])
def test_flags_of_adapters_need_one(tiny_run: Run, tmp_path: Path, flag: str) -> None:
    value = {"network_dim": 4, "use_dora": True, "network_args": ["conv_dim=4"]}.get(flag, 3)
    named = "conv_dim" if flag == "network_args" else flag
    with pytest.raises(ValueError, match=f"--{named} is of adapters: say which with --network_module"):
        tiny_run.train(tmp_path, **{flag: value})
