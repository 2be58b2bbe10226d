"""Pipelines as ppsd exports them, what Paddle computes with them, and what diffusers does after the conversion."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ppsd import compat  # isort: skip  before paddle

import paddle

from ppsd.interop.diffusers import write_diffusers
from ppsd.interop.embeddings import save_embeddings
from ppsd.models.bundle import load_bundle
from ppsd.models.loading import load_component
from ppsd.sampling.pipeline import build_pipeline
from ppsd.trainers.pretrain import main as pretrain
from tests.images import write_parts
from tests.interop.environment import CannotInstall, interpreter, run_script
from tests.tiny import (
    tiny_pipeline,
    tiny_pipeline_dir,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
)

compat.apply()

PROMPTS = ["a Red circle, on the blue  background", "photo of 你好, a square's é!"]
TOKEN, VECTORS = "<new-thing>", 3
WITH_TOKEN = [f"a photo of {TOKEN}", f"{TOKEN} red {TOKEN}, square"]


@dataclass
class Case:
    """A folder of Paddle, its conversion, and what both sides computed of the same inputs."""

    paddle_folder: Path
    prompts: Optional[list[str]] = None
    embeddings: list[dict[str, str]] = field(default_factory=list)
    half: bool = False
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    expected: dict[str, np.ndarray] = field(default_factory=dict)
    found: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.paddle_folder.with_name(f"{self.paddle_folder.name}-{'half' if self.half else 'diffusers'}")


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """All in one start of torch, which takes longer than what it computes."""
    try:
        interpreter()
    except CannotInstall as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NO DIFFUSERS: these tests need pip to reach its package index: {error}")
    folder = tmp_path_factory.mktemp("interop")
    made = {
        "trained": Case(trained_pipeline(folder), PROMPTS),
        "sd2": Case(sd2_pipeline(folder), PROMPTS),
        "tokens": Case(pipeline_with_tokens(folder), WITH_TOKEN),
        "sdxl-unet": Case(sdxl_unet(folder)),
    }
    made["half"] = Case(made["trained"].paddle_folder, PROMPTS, half=True)
    made["embeddings"] = embeddings_case(folder, made["trained"], "diffusers")
    made["embeddings-a1111"] = embeddings_case(folder, made["trained"], "a1111")
    jobs = []
    for name, case in made.items():
        if not case.folder.exists():
            write_diffusers(case.paddle_folder, case.folder, case.half)
        case.inputs = make_inputs(wide=name == "sdxl-unet")
        with paddle.no_grad():
            case.expected = pipeline_outputs(case) if case.prompts else unet_outputs(case)
        inputs, output = folder / f"{name}-inputs.safetensors", folder / f"{name}-output.safetensors"
        save_file(case.inputs, inputs)
        prompts = {"prompts": case.prompts, "embeddings": case.embeddings} if case.prompts else {}
        jobs.append({"folder": str(case.folder), "inputs": str(inputs), "output": str(output), **prompts})
    run_script("outputs.py", jobs, folder)
    for job, case in zip(jobs, made.values()):
        case.found = load_file(job["output"])
    return made


def trained_pipeline(folder: Path) -> Path:
    """What three steps of the real training export, of UNet and text encoder."""
    unet = folder / "unet"
    shaken(tiny_unet()).save_pretrained(str(unet), safe_serialization=True)
    output = folder / "trained"
    flags = {
        "pretrained_model_name_or_path": tiny_pipeline_dir(folder),
        "unet_name_or_path": unet,
        "file_list": write_parts(folder, [8, 8], 72, 80),
        "output_dir": output,
        "train_text_encoder": True,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "resolution": 64,
        "per_device_train_batch_size": 2,
        "image_logging_steps": -1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    pretrain([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    return output


def sd2_pipeline(folder: Path) -> Path:
    """Linear projections around the attention, velocity, gelu, and padding with "!"."""
    pipe = tiny_pipeline(seed=3)
    unet = tiny_unet(3, use_linear_projection=True, attention_head_dim=[1, 2], upcast_attention=True)
    tokenizer = tiny_tokenizer(pad_token="!")
    text = tiny_text_encoder(3, hidden_act="gelu")
    shaken(unet, text, pipe.vae)
    pipe.register_modules(unet=unet, tokenizer=tokenizer, text_encoder=text)
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    pipe.save_pretrained(str(folder / "sd2"), safe_serialization=True)
    return folder / "sd2"


def pipeline_with_tokens(folder: Path) -> Path:
    """With tokens that training added to tokenizer and text encoder."""
    pipe = tiny_pipeline(seed=5)
    shaken(pipe.unet, pipe.text_encoder, pipe.vae)
    add_rows(pipe.tokenizer, pipe.text_encoder, [TOKEN, "Casper"], np.full((2, 16), 0.3, np.float32))
    pipe.save_pretrained(str(folder / "tokens"), safe_serialization=True)
    return folder / "tokens"


def sdxl_unet(folder: Path) -> Path:
    """SDXL's differences: deeper transformers, linear projections, and the size of the picture as a condition."""
    unet = tiny_unet(
        7,
        use_linear_projection=True,
        transformer_layers_per_block=[1, 2],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )
    shaken(unet).save_pretrained(str(folder / "sdxl-unet"), safe_serialization=True)
    return folder / "sdxl-unet"


def embeddings_case(folder: Path, trained: Case, form: str) -> Case:
    """The trained pipeline with a file of learned embeddings, which only diffusers' own loader reads."""
    case = Case(trained.paddle_folder, WITH_TOKEN)
    file = folder / f"learned_embeds-{form}.safetensors"
    save_embeddings(file, TOKEN, learned_rows(), form)
    case.embeddings = [{"file": str(file), "token": TOKEN}]
    return case


def shaken(*layers: Any) -> Any:
    """Biases and norms off their zeros and ones, where a lost one would not show; a UNet that hears the prompt."""
    random = np.random.default_rng(2)
    for layer in layers:
        for name, parameter in layer.named_parameters():
            value = parameter.numpy()
            if value.ndim == 1:
                value = value + 0.1 * random.standard_normal(value.shape)
            elif "attn2.to_out" in name:
                value = 20 * value
            parameter.set_value(value.astype(np.float32))
    return layers[0]


def learned_rows() -> np.ndarray:
    return np.random.default_rng(11).standard_normal((VECTORS, 16)).astype(np.float32)


def add_rows(tokenizer: Any, text_encoder: Any, tokens: list[str], rows: np.ndarray) -> None:
    """New tokens at the end of the vocabulary, with these embeddings."""
    tokenizer.add_tokens(tokens)
    table = text_encoder.get_input_embeddings().weight.numpy()
    text_encoder.resize_token_embeddings(len(tokenizer))
    text_encoder.get_input_embeddings().weight.set_value(np.concatenate([table, rows]))


def make_inputs(wide: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    inputs = {
        "x_t": random.standard_normal((2, 4, 8, 8)),
        "start": random.standard_normal((2, 4, 8, 8)),
        "states": random.standard_normal((2, 77, 16)),
        "pixels": random.uniform(-1, 1, (2, 3, 64, 64)),
    }
    if wide:
        inputs.update(text_embeds=random.standard_normal((2, 8)), time_ids=random.uniform(0, 64, (2, 6)))
    found = {name: value.astype(np.float32) for name, value in inputs.items()}
    return {**found, "timesteps": np.array([3, 800])}


def pipeline_outputs(case: Case) -> dict[str, np.ndarray]:
    """As scripts/outputs.py computes them with torch."""
    bundle = load_bundle(str(case.paddle_folder))
    prompts = case.prompts or []
    expanded = prompts
    if case.embeddings:
        names = [TOKEN, *(f"{TOKEN}_{i}" for i in range(1, VECTORS))]
        add_rows(bundle.tokenizer, bundle.text_encoder, names, learned_rows())
        expanded = [prompt.replace(TOKEN, " ".join(names)) for prompt in prompts]
    given = {name: paddle.to_tensor(value) for name, value in case.inputs.items()}
    pipe = build_pipeline(bundle, bundle.scheduler_config["prediction_type"])
    pipe.set_progress_bar_config(disable=True)
    for layer in (pipe.unet, pipe.vae, pipe.text_encoder):
        layer.eval()
    ids = pipe.tokenizer(expanded, padding="max_length", truncation=True, max_length=77)["input_ids"]
    moments = pipe.vae.encode(given["pixels"]).latent_dist
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"}
    made = {
        "input_ids": np.array(ids),
        "hidden": pipe.text_encoder(paddle.to_tensor(ids))[0],
        "unet": pipe.unet(given["x_t"], given["timesteps"], given["states"]).sample,
        "mean": moments.mean,
        "logvar": moments.logvar,
        "decoded": pipe.vae.decode(given["x_t"]).sample,
        "pictures": pipe(prompts, latents=given["start"], **options).images,
        "alphas_cumprod": pipe.scheduler.alphas_cumprod,
    }
    return {name: np.asarray(value) for name, value in made.items()}


def unet_outputs(case: Case) -> dict[str, np.ndarray]:
    unet: Any = load_component(type(tiny_unet()), str(case.paddle_folder), None, "--unet")
    unet.eval()
    given = {name: paddle.to_tensor(value) for name, value in case.inputs.items()}
    told = {name: given[name] for name in ("text_embeds", "time_ids")}
    return {"unet": unet(given["x_t"], given["timesteps"], given["states"], added_cond_kwargs=told).sample.numpy()}
