"""Make the demo images: filled shapes of one named colour on a background of another, with captions.

--kind shapes writes OUTPUT_PATH/images/000000.jpg, OUTPUT_PATH/outlines/000000.png (the shape's outline, to train a
ControlNet on) and OUTPUT_PATH/demo.jsonl, one {"caption", "image", "image_id", "conditioning_image"} a line, paths
relative to the jsonl file: what tools/create_pretraining_data.py reads. The other kinds are for a model that has been
trained on these, and write an image folder, which --train_data_dir and --instance_data_dir read: conditions has the
same pictures with what a ControlNet or a depth model is told of them (metadata.jsonl names their outlines as
conditioning_image and their depth maps as depth); stripes has them with striped shapes (a style to fine-tune on); ring
and star are subjects that the model has never seen, without captions (a shape, and two colours together). The same
arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from ppsd.data.demo import make_example
from ppsd.data.demo_conditions import make_conditions
from ppsd.data.demo_kinds import make_star, make_striped, make_subject
from ppsd.formats.atomic import atomic_write

JPEG = {"quality": 95, "subsampling": 0}
FOLDERS = {"stripes": make_striped, "ring": make_subject, "star": make_star}


def parse_args() -> argparse.Namespace:
    """The command line; ends the program with a usage line when it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_path", required=True, help="Folder to write to; made if needed.")
    parser.add_argument(
        "--kind", choices=["shapes", "conditions", *FOLDERS], default="shapes", help="(default: shapes)"
    )
    parser.add_argument("--num_images", type=int, default=4000)
    parser.add_argument("--size", type=int, default=64, help="Width and height in pixels.")
    parser.add_argument("--seed", type=int, default=0, help="Another seed makes another set of the same kind.")
    args = parser.parse_args()
    for flag, least in (("num_images", 1), ("size", 16), ("seed", 0)):
        if getattr(args, flag) < least:
            parser.error(f"--{flag} must be at least {least}, not {getattr(args, flag)}")
    return args


def write_example(folder: Path, index: int, seed: int, size: int) -> dict[str, str]:
    """Draw and save one example; returns its line of the jsonl file."""
    example = make_example(index, seed, size)
    image, outline = f"images/{index:06d}.jpg", f"outlines/{index:06d}.png"
    example.image.save(folder / image, **JPEG)
    example.outline.save(folder / outline)
    return {
        "caption": example.caption,
        "image": image,
        "image_id": f"demo_{seed}_{index:06d}",
        "conditioning_image": outline,
    }


def write_shapes(folder: Path, indices: Iterable[int], seed: int, size: int) -> Path:
    """All images, then the jsonl file, so that it never names a file that is not there; returns that file."""
    for name in ("images", "outlines"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(write_example(folder, i, seed, size)) + "\n" for i in indices]
    with atomic_write(folder / "demo.jsonl") as file:
        file.write("".join(lines).encode())
    return folder / "demo.jsonl"


def write_conditions(folder: Path, indices: Iterable[int], seed: int, size: int) -> Path:
    """An image folder whose metadata.jsonl names outlines and depth maps, too; returns it."""
    for name in ("outlines", "depths"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for index in indices:
        made, stem = make_conditions(index, seed, size), f"{index:06d}"
        made.example.image.save(folder / f"{stem}.jpg", **JPEG)
        made.example.outline.save(folder / "outlines" / f"{stem}.png")
        made.depth.save(folder / "depths" / f"{stem}.png")
        row = {"file_name": f"{stem}.jpg", "text": made.example.caption}
        lines.append(json.dumps({**row, "conditioning_image": f"outlines/{stem}.png", "depth": f"depths/{stem}.png"}))
    with atomic_write(folder / "metadata.jsonl") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    return folder


def write_folder(kind: str, folder: Path, indices: Iterable[int], seed: int, size: int) -> Path:
    """An image folder, with metadata.jsonl where there are captions; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in indices:
        example, name = FOLDERS[kind](index, seed, size), f"{index:06d}.jpg"
        example.image.save(folder / name, **JPEG)
        lines.append(json.dumps({"file_name": name, "text": example.caption}) + "\n")
    if example.caption:
        with atomic_write(folder / "metadata.jsonl") as file:
            file.write("".join(lines).encode())
    return folder


def main() -> None:
    args = parse_args()
    folder = Path(args.output_path)
    indices = tqdm(range(args.num_images), desc="Demo images", unit="img")
    if args.kind == "shapes":
        written = write_shapes(folder, indices, args.seed, args.size)
    elif args.kind == "conditions":
        written = write_conditions(folder, indices, args.seed, args.size)
    else:
        written = write_folder(args.kind, folder, indices, args.seed, args.size)
    print(f"{args.num_images} images: {written}")


if __name__ == "__main__":
    main()
