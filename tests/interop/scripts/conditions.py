"""ControlNets, T2I-Adapters, inpainting and depth UNets in diffusers. Run by the tests with the interpreter of
`.venv-interop`.

conditions.py JOBS.json: a list of {"do", "folder", "inputs", "output"}; `base` is a pipeline for ControlNets.
"""

import json
import sys
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file


def control_outputs(controlnet: ControlNetModel, given: dict) -> dict:
    down, middle = controlnet(given["x_t"], given["timesteps"], given["states"], given["control"], return_dict=False)
    return {**{f"down{i}": value for i, value in enumerate(down)}, "middle": middle}


def pictures(pipe: Any, job: dict, given: dict, **told: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"}
    return torch.from_numpy(pipe(job["prompts"], latents=given["start"], **told, **options).images)


def controlnet(job: dict, given: dict) -> dict:
    net = ControlNetModel.from_pretrained(job["folder"])
    pipe = StableDiffusionControlNetPipeline.from_pretrained(job["base"], controlnet=net)
    drawn = pictures(pipe, job, given, image=given["control"], controlnet_conditioning_scale=0.7)
    return {**control_outputs(net, given), "pictures": drawn}


def adapter(job: dict, given: dict) -> dict:
    net = T2IAdapter.from_pretrained(job["folder"])
    pipe = StableDiffusionAdapterPipeline.from_pretrained(job["base"], adapter=net)
    features = {f"down{i}": value for i, value in enumerate(net(given["control"]))}
    return {**features, "pictures": pictures(pipe, job, given, image=given["control"], adapter_conditioning_scale=0.7)}


def inpainting(job: dict, given: dict) -> dict:
    pipe = DiffusionPipeline.from_pretrained(job["folder"])
    assert isinstance(pipe, StableDiffusionInpaintPipeline)
    inputs = torch.cat([given["x_t"], given["mask"], given["latents"]], dim=1)
    drawn = pictures(
        pipe,
        job,
        given,
        image=torch.zeros(2, 3, 64, 64),
        mask_image=given["mask_image"],
        masked_image_latents=given["latents"],
        height=64,
        width=64,
    )
    return {"unet": pipe.unet(inputs, given["timesteps"], given["states"]).sample, "pictures": drawn}


def depth(job: dict, given: dict) -> dict:
    """The loop is drawn by hand: the pipeline's own noise is none that can be given."""
    nothing = {"depth_estimator": None, "feature_extractor": None}
    pipe = DiffusionPipeline.from_pretrained(job["folder"], **nothing)
    assert isinstance(pipe, StableDiffusionDepth2ImgPipeline)
    pipe.set_progress_bar_config(disable=True)
    inputs = torch.cat([given["x_t"], given["depth"]], dim=1)
    pipe.prepare_latents = lambda *_, **__: given["start"]
    options = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np", "strength": 1.0}
    image = torch.zeros(2, 3, 64, 64)
    drawn = pipe(job["prompts"], image=image, depth_map=given["depth_map"], **options).images
    return {
        "unet": pipe.unet(inputs, given["timesteps"], given["states"]).sample,
        "pictures": torch.from_numpy(drawn),
    }


def made_there(job: dict, given: dict) -> dict:
    """A ControlNet of a UNet, with something to say."""
    unet = UNet2DConditionModel.from_pretrained(job["base"], subfolder="unet")
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for parameter in net.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    net.save_pretrained(job["folder"])
    return control_outputs(net, given)


@torch.no_grad()
def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        made = globals()[job["do"]](job, load_file(job["inputs"]))
        save_file({name: value.contiguous() for name, value in made.items()}, job["output"])


if __name__ == "__main__":
    main()
