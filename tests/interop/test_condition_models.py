"""The real diffusers loads ControlNets, T2I-Adapters, inpainting and depth pipelines that ppsd exports and computes the
same; and a ControlNet made by diffusers loads here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from ppsd.interop.diffusers import write_diffusers
from ppsd.models.bundle import Bundle, load_bundle
from ppsd.models.conditions import depth_concat
from ppsd.models.controlnet import load_controlnet, new_t2i_adapter
from ppsd.models.saving import save_component
from ppsd.models.widening import DEPTH, INPAINTING, widen_conv_in
from ppsd.sampling.control import build_control_pipeline
from ppsd.sampling.depth import WithOwnNoise
from ppsd.sampling.pipeline import build_pipeline
from tests.interop.environment import CannotInstall, interpreter, run_script
from tests.tiny import SCHEDULER_CONFIG, shaken, tiny_controlnet, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

compat.apply()

PROMPTS = ["a red circle", "photo of a blue square"]
OPTIONS = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"}
JOBS = ["controlnet", "adapter", "inpainting", "depth", "made_there"]

pytestmark = pytest.mark.timeout(1800)  # the first one makes the environment, over whatever network there is

Outputs = dict[str, np.ndarray]


def make_bundle(added: int = 0) -> Bundle:
    unet = tiny_unet()
    if added:
        widen_conv_in(unet, 4 + added)
    bundle = Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), shaken(unet), SCHEDULER_CONFIG)
    for layer in bundle.layers():
        layer.eval()
    return bundle


def make_inputs() -> Outputs:
    random = np.random.default_rng(1)
    mask = (random.uniform(size=(2, 1, 64, 64)) > 0.5).astype(np.float32)
    found = {
        "x_t": random.standard_normal((2, 4, 8, 8)),
        "start": random.standard_normal((2, 4, 8, 8)),
        "states": random.standard_normal((2, 77, 16)),
        "control": random.uniform(size=(2, 3, 64, 64)),
        "latents": random.standard_normal((2, 4, 8, 8)),
        "mask": mask[:, :, ::8, ::8],
        "mask_image": mask,
        "depth_map": random.uniform(size=(2, 64, 64)),
    }
    values = {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}
    values["depth"] = depth_concat(paddle.to_tensor(values["depth_map"][:, None]), (8, 8)).numpy()
    return {**values, "timesteps": np.array([3, 800])}


def save_pipeline(bundle: Bundle, folder: Path) -> Path:
    """As an export is written; its conversion for diffusers."""
    pipe = build_pipeline(bundle, "epsilon")
    for name in ("unet", "vae", "text_encoder"):
        save_component(getattr(bundle, name), folder / name)
    bundle.tokenizer.save_pretrained(str(folder / "tokenizer"))
    pipe.scheduler.save_pretrained(str(folder / "scheduler"))
    pipe.save_config(str(folder))
    write_diffusers(folder, folder.with_name(f"{folder.name}-diffusers"))
    return folder.with_name(f"{folder.name}-diffusers")


def save_model(model: paddle.nn.Layer, folder: Path) -> Path:
    save_component(model, folder)
    write_diffusers(folder, folder.with_name(f"{folder.name}-diffusers"))
    return folder.with_name(f"{folder.name}-diffusers")


def drawn(pipe: Any, given: dict[str, paddle.Tensor], **told: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(prompt=PROMPTS, latents=given["start"], **told, **OPTIONS).images)


def control_outputs(controlnet: Any, given: dict[str, paddle.Tensor]) -> Outputs:
    down, middle = controlnet(given["x_t"], given["timesteps"], given["states"], given["control"], return_dict=False)
    return {**{f"down{i}": value.numpy() for i, value in enumerate(down)}, "middle": middle.numpy()}


def unet_output(unet: Any, given: dict[str, paddle.Tensor], *beside: str) -> np.ndarray:
    inputs = paddle.concat([given[name] for name in ("x_t", *beside)], axis=1)
    return np.asarray(unet(inputs, given["timesteps"], given["states"]).sample.numpy())


@paddle.no_grad()
def computed_here(folder: Path, given: dict[str, paddle.Tensor]) -> tuple[dict[str, Path], dict[str, Outputs]]:
    """Folders for diffusers, and what comes out here."""
    base, inpainting, depth = make_bundle(), make_bundle(INPAINTING), make_bundle(DEPTH)
    controlnet = shaken(tiny_controlnet(base.unet))
    paddle.seed(0)
    adapter = new_t2i_adapter(base.unet, 8)
    folders = {
        "base": save_pipeline(base, folder / "base"),
        "inpainting": save_pipeline(inpainting, folder / "inpainting"),
        "depth": save_pipeline(depth, folder / "depth"),
        "controlnet": save_model(controlnet, folder / "controlnet"),
        "adapter": save_model(adapter, folder / "adapter"),
        "made_there": folder / "made_there",
    }
    control, scaled = given["control"], {"controlnet_conditioning_scale": [0.7]}
    pipe = build_control_pipeline(base, [controlnet], "epsilon")
    outputs = {
        "controlnet": {
            **control_outputs(controlnet, given),
            "pictures": drawn(pipe, given, image=[control], **scaled),
        }
    }
    pipe = build_control_pipeline(base, [adapter], "epsilon")
    outputs["adapter"] = {
        **{f"down{i}": value.numpy() for i, value in enumerate(adapter(control))},
        "pictures": drawn(pipe, given, image=control, adapter_conditioning_scale=0.7, height=64, width=64),
    }
    told = {"image": paddle.zeros([2, 3, 64, 64]), "mask_image": given["mask_image"].clone()}
    told["masked_image_latents"] = given["latents"]
    outputs["inpainting"] = {
        "unet": unet_output(inpainting.unet, given, "mask", "latents"),
        "pictures": drawn(build_pipeline(inpainting, "epsilon"), given, height=64, width=64, **told),
    }
    pipe = WithOwnNoise(**build_pipeline(depth, "epsilon").components)
    outputs["depth"] = {
        "unet": unet_output(depth.unet, given, "depth"),
        "pictures": drawn(pipe, given, depth=given["depth"], height=64, width=64, strength=1.0),
    }
    return folders, outputs


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Outputs], dict[str, Outputs], dict[str, Path]]:
    """What came out here and there, in one start of torch, and the folders."""
    try:
        interpreter()
    except CannotInstall as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NO DIFFUSERS: these tests need pip to reach its package index: {error}")
    folder, inputs = tmp_path_factory.mktemp("conditions"), make_inputs()
    given = {name: paddle.to_tensor(value) for name, value in inputs.items()}
    folders, here = computed_here(folder, given)
    save_file(inputs, folder / "inputs.safetensors")
    jobs = [
        {
            "do": name,
            "folder": str(folders[name]),
            "base": str(folders["base"]),
            "prompts": PROMPTS,
            "inputs": str(folder / "inputs.safetensors"),
            "output": str(folder / f"{name}-output.safetensors"),
        }
        for name in JOBS
    ]
    run_script("conditions.py", jobs, folder)
    there = {job["do"]: load_file(job["output"]) for job in jobs}
    unet = load_bundle(str(folders["base"])).unet
    controlnet = load_controlnet(str(folders["made_there"]), unet)
    controlnet.eval()
    with paddle.no_grad():
        here["made_there"] = control_outputs(controlnet, given)
    return here, there, folders


@pytest.mark.parametrize("name", JOBS)
def test_outputs_agree(name, both, record_property):
    here, there, _ = both
    assert here[name].keys() == there[name].keys()
    off = {output: float(np.abs(value - there[name][output]).max()) for output, value in here[name].items()}
    record_property("table", "\n".join(f"{output:16} {value:.1e}" for output, value in off.items()))
    for output, value in off.items():
        assert value < 1e-4, f"{output} differs by {value:.1e}"
        assert here[name][output].std() > 1e-3, f"{output} says nothing: it is nearly constant"


def test_folders_say_what_they_are(both):
    """So that DiffusionPipeline.from_pretrained takes the right class."""
    _, _, folders = both
    classes = {}
    for name in ("base", "inpainting", "depth"):
        index = json.loads((folders[name] / "model_index.json").read_text(encoding="utf-8"))
        classes[name] = index["_class_name"]
        assert ("requires_safety_checker" in index) == (name != "depth")
    assert classes == {
        "base": "StableDiffusionPipeline",
        "inpainting": "StableDiffusionInpaintPipeline",
        "depth": "StableDiffusionDepth2ImgPipeline",
    }
    for name, channels in (("base", 4), ("inpainting", 9), ("depth", 5)):
        config = json.loads((folders[name] / "unet" / "config.json").read_text(encoding="utf-8"))
        assert config["in_channels"] == channels
    assert load_bundle(str(folders["inpainting"]), concat_channels=INPAINTING).unet.config.in_channels == 9
