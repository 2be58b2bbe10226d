"""ControlNet, T2I-Adapter, inpainting and depth agree with torch and diffusers: the conditions, one step's loss and its
gradients, some of them through a frozen UNet.

How the reference was made is said in fixtures/torch_reference/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest
from paddle import nn
from ppdiffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from ppdiffusers.transformers import CLIPTextModel
from safetensors import safe_open
from safetensors.numpy import load_file

from ppsd.diffusion.draws import Draws
from ppsd.diffusion.objective import Objective, reduce
from ppsd.diffusion.schedule import NoiseSchedule
from ppsd.models.bundle import Bundle
from ppsd.models.conditions import depth_concat, inpaint_concat
from ppsd.models.controlnet import load_controlnet
from ppsd.models.loading import load_component
from ppsd.models.widening import widen_conv_in
from ppsd.trainers import step as step_module
from ppsd.trainers.arguments.controlnet import ControlNetArguments
from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.step import DiffusionStep, Told
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.tiny import SCHEDULER_CONFIG, tiny_tokenizer, tiny_vae
from tests.torch_reference import INPUTS, REFERENCE, sketch

compat.apply()

FILE = REFERENCE / "conditions.safetensors"
GIVEN = load_file(FILE)
LOSSES = json.loads((REFERENCE / "conditions.json").read_text(encoding="utf-8"))


def given(name: str) -> paddle.Tensor:
    return paddle.to_tensor(GIVEN[name])


def bundle(case: str) -> Bundle:
    """With the reference's weights."""
    unet = load_component(UNet2DConditionModel, str(REFERENCE), "unet", "--unet_name_or_path")
    text_encoder = load_component(CLIPTextModel, str(REFERENCE), "text_encoder", "--text_encoder_name_or_path")
    made = Bundle(tiny_vae(), text_encoder, tiny_tokenizer(), unet, SCHEDULER_CONFIG)
    words = case.split("-")
    if words[0] == "controlnet":
        made.controlnet = load_controlnet(str(REFERENCE / "controlnet"), unet)
    elif words[0] == "t2i_adapter":
        made.controlnet = load_component(T2IAdapter, str(REFERENCE), "t2i_adapter", "--controlnet_model_name_or_path")
    else:
        weight = given(f"{words[0]}.conv_in.weight")
        widen_conv_in(unet, weight.shape[1])
        unet.conv_in.weight.set_value(weight)
    return made


def method_of(case: str) -> type[StableDiffusionTrainer]:
    return {"inpainting": InpaintingTrainer, "depth": DepthTrainer}.get(case, ControlNetTrainer)


def run_of(case: str) -> Any:
    """As the words of `case` say."""
    words = case.split("-")
    own = ControlNetArguments(
        control_type=words[0], sd_locked="sd_unlocked" not in words, only_mid_control="only_mid_control" in words
    )
    return SimpleNamespace(own=own, model=SimpleNamespace(network_module=None))


def concat_told(case: str) -> Told:
    """What the reference has beside the latents; how it is made of a batch is tested below."""
    return lambda condition, *_: replace(condition, concat=given(f"{case}.concat"))


def one_step(case: str, recompute: bool = False) -> dict[str, Any]:
    """loss, and the gradients by torch's names and layout, of the step that is trained with."""
    made, method, run, predicted = bundle(case), method_of(case), run_of(case), {}
    denoise = method.denoiser(run, made)
    if recompute:
        for layer in (made.unet, made.controlnet):
            layer.enable_gradient_checkpointing()

    def watched(*args: Any) -> paddle.Tensor:
        predicted["x"] = denoise(*args)
        return predicted["x"]

    x0, noise, timesteps, input_ids = (
        paddle.to_tensor(INPUTS[name][0]) for name in ("x0", "noise", "timesteps", "input_ids")
    )
    trained = {"unet": made.unet} if made.controlnet is None else {"controlnet": made.controlnet}
    learning = [made.unet] if made.controlnet is None else list(method.learning_layers(run, made))
    objective = Objective(NoiseSchedule.from_config(SCHEDULER_CONFIG, "epsilon"))
    told = concat_told(case) if case in ("inpainting", "depth") else method.told
    step = DiffusionStep(made, objective, trained, learning=learning, denoiser=watched, told=told)
    step.train()
    beside = {} if told is not method.told else {"conditioning": given("conditioning")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "sample", lambda vae, moments, noise: moments)
        draws = Draws(noise, timesteps, None, vae_noise=noise)
        loss = reduce(step(input_ids=input_ids, draws=draws, moments=x0, **beside), paddle.ones([4]))
    loss.backward()
    gradients = gradients_of("unet", made.unet)
    if made.controlnet is not None:
        gradients.update(gradients_of("adapter" if case == "t2i_adapter" else "controlnet", made.controlnet))
    return {"loss": loss.item(), "prediction": predicted["x"].numpy(), "gradients": gradients}


def gradients_of(part: str, layer: nn.Layer) -> dict[str, np.ndarray]:
    linear = {id(sub.weight) for sub in layer.sublayers() if isinstance(sub, nn.Linear)}
    found = {}
    for name, parameter in layer.named_parameters():
        if parameter.grad is not None:
            value = parameter.grad.numpy()
            found[f"{part}.{name}"] = np.ascontiguousarray(value.T) if id(parameter) in linear else value
    return found


def expected_gradients(case: str) -> dict[str, np.ndarray]:
    """Of each parameter that has one: its L2 norm, and its sums under four patterns of signs."""
    with safe_open(FILE, "np") as file:
        return dict(zip(json.loads(file.metadata()[case]), file.get_tensor(f"{case}.gradients")))


def far(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Relative, over all parameters."""
    assert found.keys() == expected.keys()
    off = sum(np.abs(sketch(found[name]) - value).max() ** 2 for name, value in expected.items())
    return float(np.sqrt(off / sum(value[0] ** 2 for value in expected.values())))


@pytest.mark.parametrize("case", LOSSES)
def test_one_step(case, record_property):
    step, expected = one_step(case), expected_gradients(case)
    figures = {
        "prediction": np.abs(step["prediction"] - GIVEN[f"{case}.prediction"]).max(),
        "loss": abs(step["loss"] / LOSSES[case] - 1),
        "gradients": far(step["gradients"], expected),
    }
    record_property("table", "\n".join(f"{name:12} {value:.1e} off" for name, value in figures.items()))
    assert figures["prediction"] < 1e-5
    assert figures["loss"] < 1e-5
    assert figures["gradients"] < 2e-5
    for part in parts(expected):
        assert np.median([value[0] for name, value in expected.items() if name.startswith(part)]) > 1e-4


def parts(names: Mapping[str, Any]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="that paddle cannot recompute on the CPU")
@pytest.mark.parametrize("case", ["controlnet", "controlnet-sd_unlocked"])
def test_recomputation_changes_no_gradient(case):
    plain, recomputed = one_step(case), one_step(case, recompute=True)
    assert plain["loss"] == recomputed["loss"]
    for name, value in plain["gradients"].items():
        np.testing.assert_array_equal(recomputed["gradients"][name], value, err_msg=name)


def test_only_mid_control_and_the_lock_say_what_has_gradients():
    locked, unlocked = expected_gradients("controlnet"), one_step("controlnet-sd_unlocked")["gradients"]
    assert parts(locked) == {"controlnet"}
    decoder = {name for name in unlocked if name.startswith("unet.")}
    assert {name.split(".")[1] for name in decoder} == {"up_blocks", "conv_norm_out", "conv_out"}
    assert set(unlocked) - decoder == set(locked)
    middle = one_step("controlnet-only_mid_control")["gradients"]
    assert {name.split(".")[1] for name in set(locked) - set(middle)} == {"controlnet_down_blocks"}


def test_inpainting_conditions_are_the_pipeline_s(record_property):
    vae = load_component(AutoencoderKL, str(REFERENCE), "vae", "--vae_name_or_path")
    found = inpaint_concat(vae, given("pixels"), given("mask"), given("vae_noise")).numpy()
    expected = GIVEN["inpainting.concat"]
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    assert 0.3 < found[:, 0].mean() < 0.7
    off = np.abs(found - expected).max()
    record_property("table", f"latents {off:.1e} off")
    assert off < 1e-5
    assert expected[:, 1:].std() > 0.1


def test_depths_are_the_pipeline_s(record_property):
    found = depth_concat(given("depth"), (8, 8)).numpy()
    off = np.abs(found - GIVEN["depth.concat"]).max()
    record_property("table", f"depth {off:.1e} off")
    assert off < 1e-5


def test_a_controlnet_of_diffusers_loads_here():
    """With all that its file has; Linear weights are the other way round."""
    unet = load_component(UNet2DConditionModel, str(REFERENCE), "unet", "--unet_name_or_path")
    own = load_controlnet(str(REFERENCE / "controlnet"), unet).state_dict()
    theirs = load_file(REFERENCE / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert own.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(own[name].numpy() if value.ndim != 2 else own[name].numpy().T, value)


def test_controlnets_made_of_a_unet_are_of_the_same_settings():
    """Here and there."""
    unet = load_component(UNet2DConditionModel, str(REFERENCE), "unet", "--unet_name_or_path")
    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8)).config
    theirs = json.loads((REFERENCE / "controlnet" / "config.json").read_text(encoding="utf-8"))
    for key, value in theirs.items():
        if not key.startswith("_"):
            assert plain(made[key]) == value, key


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
