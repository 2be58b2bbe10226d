"""Draw prompts with a published model, a checkpoint's UNet over a base pipeline, or a trained pipeline folder.

python eval.py --pipeline output/demo --prompt "a red circle on a blue background" --output grid.png
python eval.py --pipeline CompVis/stable-diffusion-v1-4 --unet output/run/checkpoint-5000/unet --prompt "a cat"
python eval.py --pipeline output/demo --embeddings output/toy/learned_embeds.safetensors --prompt "a <toy>"
python eval.py --pipeline output/demo --lora output/style/style.safetensors:0.8 --prompt "a red circle"
python eval.py --pipeline output/demo --lora none --lora a.safetensors b.safetensors:0.5 --prompt "a red circle"
python eval.py --pipeline output/demo --controlnet output/control:0.8 --image outlines.png --prompt "a red circle"
python eval.py --pipeline output/demo --controlnet output/control --annotator canny --image cat.jpg --prompt "a dog"
python eval.py --pipeline output/inpainting --image cat.jpg --mask mask.png --prompt "a dog" --keep_unmasked
python eval.py --pipeline output/depth --depth depth.png --prompt "a red circle"
"""

import argparse
from pathlib import Path
from typing import Any

import ppsd.compat  # noqa: F401  before paddle

from ppsd.data.tokens import TOKEN_LENGTHS
from ppsd.interop.added_embeddings import add_files
from ppsd.interop.lora.attaching import LoraSwitch, models_of, parse_weighted
from ppsd.sampling.condition_flags import ConditionFlags, add_condition_flags
from ppsd.sampling.conditioned import captioned, generate_told, grid_beside
from ppsd.sampling.control_switch import ControlSwitch
from ppsd.sampling.grid import image_grid, save_png
from ppsd.sampling.notes import noted_beside
from ppsd.sampling.pipeline import load_pipeline, size_of
from ppsd.sampling.scenes import with_prompts
from ppsd.sampling.text import TextSettings
from ppsd.trainers.checkpoint import require_writable
from ppsd.trainers.console import one_line_errors, show_log
from ppsd.trainers.controlnet_folders import Scaled, at_once, controlnets_of_pipeline, parse_controlnets

_CLIP_SKIP = (
    "The text encoder's layer that is used: 1 the last, 2 the one before it, as A1111 and kohya count (diffusers: one"
    " less). Default: as its ppsd.json says, else 1."
)
_EMBEDDINGS = "Files of textual inversion (.safetensors of diffusers, A1111 or kohya): their tokens can be in prompts."
_LORA = (
    "LoRA or LyCORIS files (diffusers', kohya's, ppsd's), each with the multiple of what it adds (default: 1). Given"
    " again with other files, or with the word none, it draws all prompts once more, in another row; the models stay"
    " loaded."
)
_CONTROLNET = (
    "ControlNets or T2I-Adapters, used together, each with how much it has to say (default: 1): folders (diffusers',"
    " ppsd's), pipelines and checkpoints with a folder controlnet, runs (the export, else the newest checkpoint), hub"
    " names. Given again with others, or with the word none, it draws another row. Default: the pipeline's own, if"
    " there is --image."
)
_FUSE = "Put the files' changes into the weights while drawing, which is faster."
_SETTINGS = ("guidance_scale", "num_inference_steps", "seed", "batch_size", "negative_prompt")
_MAX_TOKEN_LENGTH = "Tokens of a prompt that are used, 75 at a time. Default: as its ppsd.json says, else 75."


def parse(argv: "list[str] | None" = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", nargs="+", required=True, help="One or more prompts, each in quotes.")
    parser.add_argument("--pipeline", required=True, help="Pipeline folder or hub name.")
    parser.add_argument("--unet", help="UNet folder (checkpoint-N/unet) used instead of the pipeline's.")
    parser.add_argument("--variant", choices=["ema"], help="ema: the averaged weights in the --unet folder.")
    parser.add_argument("--guidance_scale", type=float, default=7.5, help="1 turns guidance off. (default: 7.5)")
    parser.add_argument("--num_inference_steps", type=int, default=50, help="Denoising steps. (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="Same seed, same pictures. (default: 0)")
    parser.add_argument("--height", type=int, help="Pixels. (default: what the UNet was trained at)")
    parser.add_argument("--width", type=int, help="Pixels. (default: what the UNet was trained at)")
    parser.add_argument("--num_images_per_prompt", type=int, default=1, help="(default: 1)")
    parser.add_argument("--clip_skip", type=int, help=_CLIP_SKIP)
    parser.add_argument("--max_token_length", type=int, choices=TOKEN_LENGTHS, help=_MAX_TOKEN_LENGTH)
    parser.add_argument("--embeddings", nargs="+", default=[], help=_EMBEDDINGS)
    parser.add_argument("--lora", nargs="+", action="append", default=[], metavar="PATH[:WEIGHT]", help=_LORA)
    parser.add_argument("--fuse_lora", action="store_true", help=_FUSE)
    parser.add_argument(
        "--controlnet", nargs="+", action="append", default=[], metavar="PATH[:SCALE]", help=_CONTROLNET
    )
    add_condition_flags(parser)
    parser.add_argument("--negative_prompt", default="", help="What not to draw.")
    parser.add_argument("--batch_size", type=int, default=8, help="Pictures drawn at once. (default: 8)")
    parser.add_argument("--output", default="grid.png", help="The grid; each picture also lands beside it. (grid.png)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    show_log()
    output = Path(args.output)
    require_writable(output.parent, "--output")
    lora_sets = [lora_set(words) for words in args.lora] or [[]]
    control_sets = [parse_controlnets(words) for words in args.controlnet] or [default_controlnets(args)]
    flags = ConditionFlags.of(args, at_once(control_sets))
    prompts, scenes = with_prompts(args.prompt, flags.scenes())
    pipe = pipeline_of(args, [path for loras in lora_sets for path, _ in loras], control_sets)
    flags.check(pipe)
    copies = args.num_images_per_prompt
    prompts, scenes = ([each for each in those for _ in range(copies)] for those in (prompts, scenes))
    height, width = size_of(pipe, args.height, args.width)
    told = flags.read(scenes, (width, height), args.seed)
    switch, controls = lora_switch(pipe, lora_sets), ControlSwitch(pipe)
    settings = {name: getattr(args, name) for name in _SETTINGS}
    settings.update(flags.settings, height=height, width=width, progress=True)
    rows, names = [], []
    for nets in control_sets:
        drawn_with, scales = controls.use([net.path for net in nets]), [net.scale for net in nets]
        for loras in lora_sets:
            switch.use(loras, fuse=args.fuse_lora)
            rows.append(generate_told(drawn_with, prompts, **told, scales=scales, **settings))
            names.append(row_name(loras, nets))
    pictures = [picture for row in rows for picture in row]
    for i, picture in enumerate(pictures):
        save_png(output.with_name(f"{output.stem}-{i:03d}.png"), picture)
    if told:
        grid = grid_beside(rows, names, prompts, told, copies)
    else:
        captions = [captioned(prompt, name, len(names)) for name in names for prompt in prompts]
        grid = image_grid(pictures, columns=len(prompts) if len(rows) > 1 else None, captions=captions)
    save_png(output, grid)
    print(f"{len(pictures)} pictures, grid: {output}")


def pipeline_of(args: argparse.Namespace, loras: "list[str]", control_sets: "list[list[Scaled]]") -> Any:
    """The pipeline that the flags name, which reads prompts as the runs behind LoRAs and ControlNets read captions."""
    nets = [net.path for nets in control_sets for net in nets]
    text = noted_beside([*loras, *nets], TextSettings(args.clip_skip, args.max_token_length))
    pipe = load_pipeline(args.pipeline, args.unet, args.variant, text, concat_channels=None)
    add_files(pipe, args.embeddings)
    return pipe


def lora_switch(pipe: Any, lora_sets: "list[list[tuple[str, float]]]") -> LoraSwitch:
    """With all files read before anything is drawn, so that a wrong one is known at once."""
    switch = LoraSwitch(models_of(pipe))
    for path, _ in (lora for loras in lora_sets for lora in loras):
        try:
            switch.load(path)
        except ValueError as error:
            raise ValueError(f"--lora: {error}") from error
    return switch


def default_controlnets(args: argparse.Namespace) -> "list[Scaled]":
    """Those that the pipeline has of its own, where there is a picture to show them."""
    return controlnets_of_pipeline(args.pipeline) if args.image else []


def lora_set(words: "list[str]") -> "list[tuple[str, float]]":
    """What follows one --lora: files with their weights; none of them for the word `none`."""
    return [] if words == ["none"] else [parse_weighted(word) for word in words]


def row_name(loras: "list[tuple[str, float]]", nets: "list[Scaled]") -> str:
    """What is said of a row below its pictures."""
    named = [f"{Path(path).stem}:{weight:g}" for path, weight in loras]
    return " + ".join(named + [f"{net.label}:{net.scale:g}" for net in nets]) or "none"


if __name__ == "__main__":
    one_line_errors(main)
