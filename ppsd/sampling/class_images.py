"""Class images of DreamBooth (arXiv 2208.12242, 3.2): what the model draws of the class before it is trained.

Picture number n of a prompt is `class-00012-HASH.png`, HASH that of the prompt. It starts from noise of its own and is
always computed beside the same others, so whatever is there of a drawing that was broken off, the rest of it comes out
as it would have.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from tqdm import tqdm

from ppsd.formats.image_folder import read_image_folder
from ppsd.formats.items import FolderItem
from ppsd.models.widening import INPAINTING
from ppsd.sampling.grid import save_png
from ppsd.sampling.inpainting import generate_in_full_masks
from ppsd.sampling.pipeline import beside_latents, generate
from ppsd.types import World


def image_files(folder: Path) -> list[Path]:
    """The images that training on the folder would find, whoever made them; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return [item.image for _, item in read_image_folder(folder) if isinstance(item, FolderItem)]


def missing_numbers(folder: Path, prompt: str, count: int) -> list[int]:
    """Numbers of the pictures to draw so that `folder` has `count` images; all that are there count."""
    images = image_files(folder)
    there = {_number(image.name, prompt) for image in images if image.parent == folder}
    numbers = (number for number in itertools.count() if number not in there)
    return list(itertools.islice(numbers, max(0, count - len(images))))


def draw_missing(
    pipe: Any,
    folder: Path,
    prompt: str,
    missing: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    guidance_scale: float,
    num_inference_steps: int,
    world: World = World(),  # noqa: B008  frozen
    progress: bool = True,
) -> None:
    """Draw this process's share of the pictures, of the size that the UNet was trained at; files appear whole."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = generate_in_full_masks if beside_latents(pipe.unet, pipe.vae) == INPAINTING else generate
    shares = list(batches(missing, batch_size))[world.rank :: world.size]
    with tqdm(total=sum(len(wanted) for _, wanted in shares), desc="class images", disable=not progress) as bar:
        for numbers, wanted in shares:
            pictures = draw(
                pipe,
                [prompt] * len(numbers),
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                seed=seed,
                first=numbers[0],
                batch_size=batch_size,
            )
            for number in wanted:
                save_png(folder / file_name(number, prompt), pictures[number - numbers[0]])
                bar.update()


def batches(missing: Sequence[int], size: int) -> Iterator[tuple[range, list[int]]]:
    """(Numbers that are drawn together, those of them that are missing). Batch b begins with number b * size.

    Kernels round otherwise in another batch, so batches are always whole; what is not missing of one is not written.
    """
    for batch, numbers in itertools.groupby(missing, lambda number: number // size):
        yield range(batch * size, (batch + 1) * size), list(numbers)


def file_name(number: int, prompt: str) -> str:
    return f"class-{number:05d}-{_hash(prompt)}.png"


def _number(name: str, prompt: str) -> Optional[int]:
    match = re.fullmatch(rf"class-(\d{{5,}})-{_hash(prompt)}\.png", name)
    return int(match[1]) if match else None


def _hash(prompt: str) -> str:
    return hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest()
