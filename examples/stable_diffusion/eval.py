"""Draw prompts with a published model, a checkpoint's UNet over a base pipeline, or a trained pipeline folder.

python eval.py --pipeline output/demo --prompt "a red circle on a blue background" --output grid.png
python eval.py --pipeline CompVis/stable-diffusion-v1-4 --unet output/run/checkpoint-5000/unet --prompt "a cat"
python eval.py --pipeline output/demo --embeddings output/toy/learned_embeds.safetensors --prompt "a <toy>"
python eval.py --pipeline output/demo --lora output/style/style.safetensors:0.8 --prompt "a red circle"
python eval.py --pipeline output/demo --lora none --lora a.safetensors b.safetensors:0.5 --prompt "a red circle"
"""

import argparse
from pathlib import Path

import ppsd.compat  # noqa: F401  before paddle

from ppsd.data.tokens import TOKEN_LENGTHS
from ppsd.interop.added_embeddings import add_files
from ppsd.interop.lora.attaching import LoraSwitch, models_of, parse_weighted
from ppsd.sampling.grid import image_grid, save_png
from ppsd.sampling.pipeline import generate, load_pipeline
from ppsd.sampling.text import TextSettings, read_text_settings
from ppsd.trainers.checkpoint import require_writable
from ppsd.trainers.console import one_line_errors, show_log

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
_FUSE = "Put the files' changes into the weights while drawing, which is faster."
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
    parser.add_argument("--negative_prompt", default="", help="What not to draw.")
    parser.add_argument("--batch_size", type=int, default=8, help="Pictures drawn at once. (default: 8)")
    parser.add_argument("--output", default="grid.png", help="The grid; each picture also lands beside it. (grid.png)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    show_log()
    output = Path(args.output)
    require_writable(output.parent, "--output")
    sets = [lora_set(words) for words in args.lora] or [[]]
    text = noted_beside(sets, TextSettings(args.clip_skip, args.max_token_length))
    pipe = load_pipeline(args.pipeline, args.unet, args.variant, text)
    add_files(pipe, args.embeddings)
    switch = LoraSwitch(models_of(pipe))
    for path, _ in (lora for loras in sets for lora in loras):
        try:
            switch.load(path)  # all of them before anything is drawn, so that a wrong one is known at once
        except ValueError as error:
            raise ValueError(f"--lora: {error}") from error
    prompts = [prompt for prompt in args.prompt for _ in range(args.num_images_per_prompt)]
    pictures, captions = [], []
    for loras in sets:
        switch.use(loras, fuse=args.fuse_lora)
        pictures += list(
            generate(
                pipe,
                prompts,
                guidance_scale=args.guidance_scale,
                num_inference_steps=args.num_inference_steps,
                seed=args.seed,
                height=args.height,
                width=args.width,
                batch_size=args.batch_size,
                negative_prompt=args.negative_prompt,
                progress=True,
            )
        )
        name = " + ".join(f"{Path(path).stem}:{weight:g}" for path, weight in loras) or "none"
        captions += [f"{prompt} [{name}]" if len(sets) > 1 else prompt for prompt in prompts]
    for i, picture in enumerate(pictures):
        save_png(output.with_name(f"{output.stem}-{i:03d}.png"), picture)
    save_png(output, image_grid(pictures, columns=len(prompts) if len(sets) > 1 else None, captions=captions))
    print(f"{len(pictures)} pictures, grid: {output}")


def noted_beside(sets: "list[list[tuple[str, float]]]", asked: TextSettings) -> TextSettings:
    """What is asked for, else what the folders of the LoRA files say of how captions were read."""
    notes = [read_text_settings(run_of(Path(path))) for loras in sets for path, _ in loras]
    distinct = {note for note in notes if note is not None}
    if len(distinct) > 1 and None in (asked.clip_skip, asked.max_token_length):
        raise ValueError(
            "--lora: the files were trained with captions read differently (see the ppsd.json beside each): give"
            " --clip_skip and --max_token_length"
        )
    return asked.or_else(next(iter(distinct), TextSettings()))


def run_of(lora: Path) -> Path:
    """The folder of a run or checkpoint that a LoRA file is in, or that is given itself."""
    folder = lora if lora.is_dir() else lora.parent
    return folder.parent if folder.name == "adapter" else folder


def lora_set(words: "list[str]") -> "list[tuple[str, float]]":
    """What follows one --lora: files with their weights; none of them for the word `none`."""
    return [] if words == ["none"] else [parse_weighted(word) for word in words]


if __name__ == "__main__":
    one_line_errors(main)
