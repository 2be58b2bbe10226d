"""ControlNets, T2I-Adapters and adapters of ControlNets: what is trained, what is saved, and from where it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppsd.diffusion.draws import draw
from ppsd.models.controlnet import load_controlnet, new_t2i_adapter
from ppsd.models.denoiser import PlainDenoiser
from ppsd.models.loading import load_component
from ppsd.models.saving import read_weights, save_component
from ppsd.sampling.pipeline import load_pipeline
from ppsd.sampling.text import read_text_settings
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.controlnet_folders import find_controlnet
from ppsd.trainers.exporting import write_control
from ppsd.trainers.optimizer import learning_rate_ratios
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.data.scenes import disagreement
from tests.trainers.condition_runs import NARROW, base_unet, first_batch, scenes, unet
from tests.trainers.condition_runs import built as built_run
from tests.trainers.condition_runs import learn as learn_run
from tests.trainers.conftest import Run, assert_same_weights, losses, weights

FILE = "diffusion_paddle_model.safetensors"
KINDS: dict[str, dict[str, Any]] = {
    "controlnet": NARROW,
    "decoder, too": {**NARROW, "sd_locked": False, "use_ema": True},
    "middle alone": {**NARROW, "only_mid_control": True},
    "adapters": {**NARROW, "network_module": "lora", "network_dim": 2, "use_ema": True},
    "t2i_adapter": {"control_type": "t2i_adapter"},
}

FREE: dict[str, Any] = {"conditioning_embedding_out_channels": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("scenes") / "set")


def learn(run: Run, output: Path, folder: Path, **changes: Any) -> StableDiffusionTrainer:
    return learn_run(run, output, ControlNetTrainer, folder, **changes)


def built(run: Run, output: Path, folder: Path, **changes: Any) -> StableDiffusionTrainer:
    return built_run(run, output, ControlNetTrainer, folder, **changes)


@pytest.mark.parametrize("kind", ["controlnet", "middle alone", "adapters"])
def test_a_fresh_controlnet_changes_nothing(tiny_run: Run, tmp_path: Path, folder: Path, kind: str) -> None:
    """The first prediction is the base's bit for bit, whatever the condition shows."""
    trainer = built(tiny_run, tmp_path, folder, **KINDS[kind])
    batch = first_batch(trainer)
    draws = draw(batch["seed"], trainer.latent_shape(batch), num_train_timesteps=1000)
    assert batch["conditioning"].astype("float32").std().item() > 10
    with_control = trainer.losses(trainer.step, batch, draws)
    trainer.step.denoiser = PlainDenoiser(trainer.bundle.unet)
    np.testing.assert_array_equal(with_control.numpy(), trainer.losses(trainer.step, batch, draws).numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_and_what_stays(tiny_run: Run, tmp_path: Path, folder: Path, kind: str) -> None:
    before = {name: value.numpy() for name, value in _control(built(tiny_run, tmp_path / "0", folder, **KINDS[kind]))}
    trainer = learn(tiny_run, tmp_path / "run", folder, max_steps=3, **KINDS[kind])
    changed = {name for name, value in _control(trainer) if (value.numpy() != before[name]).any()}
    stays = {name for name in before if name.startswith("controlnet_down_blocks")} if kind == "middle alone" else set()
    assert changed, "after three steps the zero convolutions let the rest learn, too"
    assert not changed & stays
    assert all((before[name] == 0).all() for name in stays)
    own, base = unet(trainer), base_unet(trainer)
    moved = {name.split(".")[0] for name in own if (own[name] != base[name]).any()}
    assert moved == ({"up_blocks", "conv_norm_out", "conv_out"} if kind == "decoder, too" else set())


def _control(trainer: StableDiffusionTrainer) -> list[tuple[str, paddle.Tensor]]:
    assert trainer.bundle.controlnet is not None
    return list(trainer.bundle.controlnet.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_where_it_was_cut(tiny_run: Run, tmp_path: Path, folder: Path, kind: str) -> None:
    whole = learn(tiny_run, tmp_path / "whole", folder, max_steps=4, save_steps=2, **KINDS[kind])
    learn(tiny_run, tmp_path / "cut", folder, max_steps=2, save_steps=2, **KINDS[kind])
    rest = learn(tiny_run, tmp_path / "cut", folder, max_steps=4, save_steps=2, **KINDS[kind])
    assert losses(rest)[-2:] == losses(whole)[-2:]
    for part in whole.step.trained:
        ends = [weights(tmp_path / name / "checkpoint-4", part) for name in ("cut", "whole")]
        assert_same_weights(*ends)


def test_the_export_is_a_controlnet_to_load(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    trainer = learn(tiny_run, tmp_path, folder, max_steps=2, use_ema=True, ema_decay=0.5, **NARROW)
    found = load_controlnet(str(tmp_path), trainer.bundle.unet)
    assert trainer.ema is not None
    averaged = {name: value.numpy() for name, value in trainer.ema.state_dict().items()}
    assert_same_weights({name: found.state_dict()[name].numpy() for name in averaged}, averaged)
    raw = read_weights(tmp_path / "checkpoint-2" / "controlnet" / FILE)
    assert any((raw[name] != averaged[name]).any() for name in averaged)
    assert not (tmp_path / "model_index.json").exists(), "the UNet is the base's"


def test_begins_with_a_controlnet_that_is_given(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    learn(tiny_run, tmp_path / "first", folder, max_steps=2, **NARROW)
    again = built(tiny_run, tmp_path / "again", folder, controlnet_model_name_or_path=tmp_path / "first")
    found = {name: value.numpy() for name, value in _control(again)}
    saved = read_weights(tmp_path / "first" / FILE)
    assert_same_weights(found, {name: saved[name] for name in found})


def test_adapters_are_exported_within_a_controlnet(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """Which says what the adapters beside the copy said, of their averages."""
    trainer = learn(tiny_run, tmp_path, folder, max_steps=3, learning_rate=1e-2, **KINDS["adapters"])
    whole, step = load_controlnet(str(tmp_path), trainer.bundle.unet), trainer.step
    batch = first_batch(trainer)
    control = batch["conditioning"].astype("float32") / 255
    x, t, hidden = (
        paddle.randn([4, 4, 8, 8]),
        paddle.to_tensor([3, 200, 500, 900]),
        step.conditioning(batch["input_ids"]),
    )
    step.eval(), whole.eval()
    assert trainer.ema is not None
    with paddle.no_grad(), trainer.ema.applied():
        beside = trainer.bundle.controlnet(x, t, hidden.hidden, control, return_dict=False)
    with paddle.no_grad():
        within = whole(x, t, hidden.hidden, control, return_dict=False)
    assert beside[1].abs().max().item() > 1e-4
    np.testing.assert_allclose(within[1].numpy(), beside[1].numpy(), atol=1e-5)
    size = sum(value.size for value in weights(tmp_path / "checkpoint-3", "controlnet").values())
    assert size < 0.7 * sum(value.size for value in read_weights(tmp_path / FILE).values()), (
        "a checkpoint has them alone"
    )


def test_a_decoder_that_is_trained_is_exported_with_its_controlnet(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    from ppdiffusers import StableDiffusionControlNetPipeline

    trainer = learn(tiny_run, tmp_path, folder, max_steps=2, sd_locked=False, **NARROW)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(str(tmp_path))
    assert_same_weights({name: value.numpy() for name, value in pipe.unet.state_dict().items()}, unet(trainer))
    control = {name: value.numpy() for name, value in pipe.controlnet.state_dict().items()}
    assert_same_weights(control, {name: value.numpy() for name, value in _control(trainer)})


def test_a_t2i_adapter_is_exported_to_load(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    from ppdiffusers import T2IAdapter

    trainer = learn(tiny_run, tmp_path, folder, max_steps=2, **KINDS["t2i_adapter"])
    found = load_component(T2IAdapter, str(tmp_path), None, "--controlnet")
    own = {name: value.numpy() for name, value in _control(trainer)}
    assert_same_weights({name: value.numpy() for name, value in found.named_parameters()}, own)


def test_cached_latents_and_pictures_learn_the_same(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    given = {"max_steps": 3, "center_crop": True, **NARROW}
    plain = learn(tiny_run, tmp_path / "plain", folder, **given)
    cached = learn(tiny_run, tmp_path / "cached", folder, cache_latents=True, **given)
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_text_encoder": True}, "--train_text_encoder: a ControlNet"),
        ({"placeholder_token": "<x>", "initializer_token": "red"}, "--placeholder_token: a ControlNet"),
        ({"control_type": "lllite"}, "--control_type is lllite; it must be controlnet or t2i_adapter"),
        ({"control_type": "t2i_adapter", "sd_locked": False}, "--sd_locked False is of ControlNets"),
        ({"control_type": "t2i_adapter", "only_mid_control": True}, "--only_mid_control is of ControlNets"),
        ({"network_module": "lora", "sd_locked": False}, "--network_module: adapters are for"),
        ({"network_module": "lora", "network_weights": "x.safetensors"}, "--network_weights is not for adapters of"),
        ({"annotator": "canny", "cache_latents": True}, "--annotator with --cache_latents"),
        ({"conditioning_embedding_out_channels": [4, 8]}, "makes a picture 2 times smaller, the VAE 8 times"),
        ({"conditioning_image_column": "sketch"}, "no conditioning image"),
        (
            {"annotator": "hed", "annotator_model": "x", "dataloader_num_workers": 2},
            "--dataloader_num_workers 0, or write",
        ),
        ({"annotator": "kenny"}, "--annotator kenny is not one of"),
        ({"unet_learning_rate": 1e-4}, "--unet_learning_rate: the UNet stays as it is"),
        ({"mask_kinds": "full"}, "--mask_kinds acts only where a mask is needed"),
    ],
)
def test_what_cannot_work_is_refused(
    tiny_run: Run, tmp_path: Path, folder: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(tiny_run, tmp_path, folder, **{"check_data": "quick", **flags})


def test_a_controlnet_of_another_model_is_refused(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    learn(tiny_run, tmp_path / "first", folder, max_steps=1, **NARROW)
    config = tmp_path / "first" / "config.json"
    told = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**told, "layers_per_block": told["layers_per_block"] + 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="--controlnet_model_name_or_path"):
        built(tiny_run, tmp_path / "again", folder, controlnet_model_name_or_path=tmp_path / "first")


def test_a_run_s_folder_is_not_written_over(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """What it begins with is there, too; a run and its checkpoint stand for the ControlNet in them."""
    first = tmp_path / "first"
    learn(tiny_run, first, folder, max_steps=1, clip_skip=2, **NARROW)
    assert read_text_settings(first) is not None, "eval.py reads captions as training did"
    for place in (first, first / "checkpoint-1"):
        built(tiny_run, tmp_path / "again", folder, controlnet_model_name_or_path=place)
    with pytest.raises(ValueError, match="--output_dir"):
        built(tiny_run, first, folder, controlnet_model_name_or_path=first, overwrite_output_dir=True)


def test_streamed_parts_of_the_tool_have_a_conditioning_column(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """create_pretraining_data.py --conditioning_key, then the stream, read by as many workers as one likes."""
    tool = Path(__file__).parents[2] / "tools" / "create_pretraining_data.py"
    words = ["--conditioning_key", "conditioning_image", "--per_part_file_num", "5", "--num_workers", "0"]
    places = ["--input_path", str(folder), "--output_path", str(tmp_path / "parts")]
    subprocess.run([sys.executable, str(tool), *places, *words], check=True)
    file_list = tmp_path / "parts" / "filelist" / "custom_dataset.filelist.list"
    given: dict[str, Any] = {"train_data_dir": None, "file_list": file_list, "num_lanes": 4, "max_steps": 2, **NARROW}
    alone = learn(tiny_run, tmp_path / "alone", folder, **given)
    assert losses(learn(tiny_run, tmp_path / "two", folder, dataloader_num_workers=2, **given)) == losses(alone)
    batch = first_batch(alone)
    for pixels, shown in zip(batch["pixels"].numpy(), batch["conditioning"].numpy()):
        assert disagreement(pixels, shown) < 0.004, "crops and flips are those of the picture"


def test_a_controlnet_and_a_decoder_have_rates_of_their_own(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    given = {"sd_locked": False, "learning_rate": 1e-3, "unet_learning_rate": 1e-4, **NARROW}
    trainer = built(tiny_run, tmp_path, folder, **given)
    ratios = learning_rate_ratios(trainer.run, trainer.bundle)
    rates = {part: trainer.args.learning_rate * ratios.get(part, 1.0) for part in trainer.step.trained}
    assert rates == pytest.approx({"controlnet": 1e-3, "unet": 1e-4})


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ("controlnet", {"network_module": "lora"}, "--network_module: of the controlnet .* holds all of it"),
        ("adapters", {"network_module": None, "network_dim": None}, "--network_module: .* holds adapters beside it"),
        ("adapters", {"network_alpha": 3}, "--network_alpha: .* has alpha 2 .* this run 3"),
        ("adapters", {"network_dim": 3}, "--network_module: .* holds adapters of other layers or ranks"),
        ("t2i_adapter", {"control_type": "controlnet"}, r"--control_type\): .* is a T2IAdapter, this run's a Contr"),
        ("controlnet", {"sd_locked": False}, "--sd_locked False: .* was saved without training it"),
        ("decoder, too", {"sd_locked": True}, "--sd_locked False: .* holds a trained unet; add the flag"),
        (
            "controlnet",
            {"conditioning_embedding_out_channels": [4, 4, 4, 8]},
            "--controlnet_model_name_or_path .*: its conditioning_embedding_out_channels is",
        ),
    ],
)
def test_a_run_goes_on_only_as_what_it_was(
    tiny_run: Run, tmp_path: Path, folder: Path, first: str, then: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {**KINDS[first], "use_ema": False}
    learn(tiny_run, tmp_path, folder, max_steps=1, **given)
    with pytest.raises(ValueError, match=message):
        learn(tiny_run, tmp_path, folder, max_steps=2, **{**given, **then})


def test_a_rate_for_whole_models_is_little_for_adapters(
    tiny_run: Run, tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The default is one of them."""
    with caplog.at_level("WARNING", "ppsd"):
        built(tiny_run, tmp_path, folder, learning_rate=None, **KINDS["adapters"])
    assert "--learning_rate 5e-06 is one for whole models" in caplog.text


def test_another_kind_than_asked_for_is_not_begun_with(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    learn(tiny_run, tmp_path / "t2i", folder, max_steps=1, **KINDS["t2i_adapter"])
    with pytest.raises(ValueError, match="t2i holds T2IAdapter; --control_type controlnet needs ControlNetModel"):
        built(tiny_run, tmp_path / "again", folder, controlnet_model_name_or_path=tmp_path / "t2i")


def test_one_that_is_shown_grey_is_refused(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """As TencentARC's T2I-Adapters for sketches are."""
    trainer = built(tiny_run, tmp_path / "base", folder, control_type="t2i_adapter")
    grey = new_t2i_adapter(trainer.bundle.unet, trainer.bundle.vae_scale_factor, channels=1)
    save_component(grey, tmp_path / "grey")
    given = {"control_type": "t2i_adapter", "controlnet_model_name_or_path": tmp_path / "grey"}
    with pytest.raises(ValueError, match="it is shown pictures of 1 channels; training has 3"):
        built(tiny_run, tmp_path / "again", folder, **given)


@pytest.mark.parametrize("kind", ["controlnet", "t2i_adapter"])
def test_checkpoints_can_be_whole_pipelines(tiny_run: Run, tmp_path: Path, folder: Path, kind: str) -> None:
    """Whose index names what the folder holds."""
    learn(tiny_run, tmp_path, folder, max_steps=1, only_save_updated_model=False, **KINDS[kind])
    whole = tmp_path / "checkpoint-1"
    index = json.loads((whole / "model_index.json").read_text(encoding="utf-8"))
    named = index["_class_name"], index.get("controlnet")
    assert (
        named
        == {
            "controlnet": ("StableDiffusionControlNetPipeline", ["ppdiffusers", "ControlNetModel"]),
            "t2i_adapter": ("StableDiffusionPipeline", None),
        }[kind]
    ), "T2I-Adapters have another pipeline, with another folder"
    assert load_pipeline(str(whole)).unet.config.in_channels == 4
    built(tiny_run, tmp_path / "again", folder, **{**KINDS[kind], "controlnet_model_name_or_path": whole, **FREE})


def test_averages_of_adapters_go_before_an_optimizers_own_weights(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    """Which AMP O2 keeps in float32, of a ControlNet's own layers as of all others."""
    trainer = learn(tiny_run, tmp_path, folder, max_steps=3, **KINDS["adapters"])
    assert trainer.ema is not None
    assert trainer.bundle.controlnet is not None
    masters = {p.name: p.detach() + 1.0 for p in trainer.bundle.controlnet.parameters()}
    write_control(tmp_path / "whole", trainer.bundle, trainer.ema, masters)
    found = read_weights(tmp_path / "whole" / FILE)
    own = {name: value.numpy() for name, value in trainer.ema.state_dict().items() if name in found}
    assert any(name.startswith("controlnet_down_blocks") for name in own)
    assert_same_weights({name: found[name] for name in own}, own)


def test_an_export_of_another_kind_is_not_taken_for_this_one(tiny_run: Run, tmp_path: Path, folder: Path) -> None:
    given: dict[str, Any] = {"max_steps": 1, "overwrite_output_dir": True, **NARROW}
    learn(tiny_run, tmp_path, folder, **given)
    assert find_controlnet(str(tmp_path), "--controlnet") == str(tmp_path)
    learn(tiny_run, tmp_path, folder, sd_locked=False, **given)
    assert find_controlnet(str(tmp_path), "--controlnet") == str(tmp_path / "controlnet")
    learn(tiny_run, tmp_path, folder, **given)
    assert find_controlnet(str(tmp_path), "--controlnet") == str(tmp_path)
    assert not (tmp_path / "model_index.json").exists()
