"""What diffusers makes of exported folders. Run by the tests with the interpreter of `.venv-interop`.

outputs.py JOBS.json: a list of {"folder", "inputs", "output"} and, for a pipeline, {"prompts", "embeddings"}.
"""

import json
import sys

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file


def pipeline_outputs(job: dict, given: dict) -> dict:
    """Of every component, and a whole picture from the same noise."""
    pipe = StableDiffusionPipeline.from_pretrained(job["folder"])
    pipe.set_progress_bar_config(disable=True)
    for embedding in job["embeddings"]:
        pipe.load_textual_inversion(embedding["file"], token=embedding["token"])
    prompts = [pipe.maybe_convert_prompt(prompt, pipe.tokenizer) for prompt in job["prompts"]]
    length = pipe.tokenizer.model_max_length
    tokens = pipe.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    hidden = pipe.text_encoder(tokens.input_ids)[0]
    moments = pipe.vae.encode(given["pixels"]).latent_dist
    pictures = pipe(
        job["prompts"], latents=given["start"], num_inference_steps=4, guidance_scale=5.0, output_type="np"
    ).images
    return {
        "input_ids": tokens.input_ids,
        "hidden": hidden,
        "unet": pipe.unet(given["x_t"], given["timesteps"], given["states"]).sample,
        "mean": moments.mean,
        "logvar": moments.logvar,
        "decoded": pipe.vae.decode(given["x_t"]).sample,
        "pictures": torch.from_numpy(pictures),
        "alphas_cumprod": pipe.scheduler.alphas_cumprod,
    }


def unet_outputs(job: dict, given: dict) -> dict:
    """Of a UNet alone; SDXL's is told the picture's size as well."""
    unet = UNet2DConditionModel.from_pretrained(job["folder"])
    told = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    return {"unet": unet(given["x_t"], given["timesteps"], given["states"], added_cond_kwargs=told).sample}


@torch.no_grad()
def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        made = (pipeline_outputs if "prompts" in job else unet_outputs)(job, load_file(job["inputs"]))
        save_file({name: value.contiguous() for name, value in made.items()}, job["output"])


if __name__ == "__main__":
    main()
