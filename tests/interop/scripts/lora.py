"""LoRA files in diffusers, PEFT and LyCORIS. Run by the tests with the interpreter of `.venv-interop`.

lora.py JOBS.json: a list of {"do", "folder", "file", "inputs", "output"}. `file` is read by load_*, written by save_*.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file


def outputs(unet: Any, text_encoder: Any, given: dict) -> dict:
    """Of a UNet, and of a text encoder if there is one; SDXL's UNet is told the picture's size as well."""
    told = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    made = {"unet": unet(given["x_t"], given["timesteps"], given["states"], added_cond_kwargs=told).sample}
    if text_encoder is not None:
        made["hidden"] = text_encoder(given["input_ids"])[0]
    return made


def load_pipeline(job: dict, given: dict) -> dict:
    """As users load a LoRA."""
    pipe = StableDiffusionPipeline.from_pretrained(job["folder"])
    file = Path(job["file"])
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return outputs(pipe.unet, pipe.text_encoder, given)


def load_sdxl_unet(job: dict, given: dict) -> dict:
    """What StableDiffusionXLPipeline.load_lora_weights does for its UNet."""
    unet = UNet2DConditionModel.from_pretrained(job["folder"])
    file = Path(job["file"])
    found = StableDiffusionXLPipeline.lora_state_dict(
        str(file.parent), weight_name=file.name, unet_config=unet.config, return_lora_metadata=True
    )
    weights, alphas, metadata = found
    StableDiffusionXLPipeline.load_lora_into_unet(weights, network_alphas=alphas, unet=unet, metadata=metadata)
    return outputs(unet, None, given)


def load_lycoris(job: dict, given: dict) -> dict:
    """The UNet's layers: LyCORIS's wrapper knows one network, and the prefix is its setting."""
    from lycoris import LycorisNetwork, create_lycoris_from_weights

    unet = UNet2DConditionModel.from_pretrained(job["folder"], subfolder="unet")
    LycorisNetwork.apply_preset({"lora_prefix": "lora_unet"})
    network, weights = create_lycoris_from_weights(1.0, job["file"], unet)
    assert len(network.loras) == len({name.split(".")[0] for name in weights}), "some layers were not found"
    network.apply_to()
    return outputs(unet, None, given)


def save_peft(job: dict, given: dict) -> dict:
    """As diffusers' training scripts save, with or without PEFT's configuration."""
    pipe = StableDiffusionPipeline.from_pretrained(job["folder"])
    layers, configs = {}, {}
    for part, targets in job["targets"].items():
        network = getattr(pipe, part)
        network.add_adapter(LoraConfig(target_modules=targets, init_lora_weights="gaussian", **job["config"]))
        shake([value for name, value in network.named_parameters() if "lora_B" in name])
        layers[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
        configs[f"{part}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    if not job["metadata"]:
        configs = {}
    file = Path(job["file"])
    StableDiffusionPipeline.save_lora_weights(str(file.parent), weight_name=file.name, **layers, **configs)
    return outputs(pipe.unet, pipe.text_encoder, given)


def save_lycoris(job: dict, given: dict) -> dict:
    from lycoris import LycorisNetwork, create_lycoris

    unet = UNet2DConditionModel.from_pretrained(job["folder"], subfolder="unet")
    LycorisNetwork.apply_preset({"lora_prefix": "lycoris"})
    network = create_lycoris(unet, 1.0, **job["options"])
    network.apply_to()
    shake([value for name, value in network.named_parameters() if "dora_scale" not in name])
    network.save_weights(job["file"], None, {"ss_network_module": "lycoris.kohya"})
    network.eval()
    return outputs(unet, None, given)


def shake(values: list) -> None:
    """No factor is 0 then."""
    generator = torch.Generator().manual_seed(5)
    for value in values:
        value.data.add_(0.1 * torch.randn(value.shape, generator=generator))


@torch.no_grad()
def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        made = globals()[job["do"]](job, load_file(job["inputs"]))
        save_file({name: value.contiguous() for name, value in made.items()}, job["output"])


if __name__ == "__main__":
    main()
