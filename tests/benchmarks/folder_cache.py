"""What --cache_latents saves: images a second with it and without, and what it costs, in time and in bytes an image.

    python -m tests.benchmarks.folder_cache [--images 64] [--resolution 256] [--pipeline FOLDER]

An image here goes the way from its file to scaled latents: read, decoded, cropped, through the VAE, sampled; or read
from the cache and sampled. The rest of a training step is the same for all. Without --pipeline the VAE is a random one
of a quarter of the width of Stable Diffusion's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip

from paddlenlp.utils.log import logger as paddlenlp_logger

from ppsd.diffusion.draws import draw
from ppsd.formats.array_store import ArrayFolder
from ppsd.models.latents import encode, sample
from ppsd.trainers.building import build_trainer
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.trainer import StableDiffusionTrainer
from tests.images import jpeg_bytes
from tests.tiny import tiny_pipeline_dir, tiny_vae

VAE = {"block_out_channels": (32, 64, 128, 128), "layers_per_block": 2, "norm_num_groups": 8}
BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--pipeline", help="Folder of a model. Default: a random one.")
    options = parser.parse_args()
    compat.apply()
    paddlenlp_logger.set_level("WARNING")
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    count, side = options.images, options.resolution
    pipeline, images = options.pipeline or make_pipeline(folder), folder / "images"
    images.mkdir()
    for number in range(count):
        (images / f"{number}.jpg").write_bytes(jpeg_bytes(side * 3 // 2, side * 5 // 4, seed=number))
        (images / f"{number}.txt").write_text("a photo")

    def build(name: str, *flags: str) -> StableDiffusionTrainer:
        words = f"--pretrained_model_name_or_path {pipeline} --train_data_dir {images} --output_dir {folder / name}"
        words += f" --resolution {side} --per_device_train_batch_size {BATCH} --max_steps 1 --check_data off"
        words += " --center_crop --random_flip --report_to none --disable_tqdm"
        return build_trainer(StableDiffusionTrainer, parse_run(None, [*words.split(), *flags]))

    without, trainer = seconds(lambda: build("plain"))
    rate = epoch_rate(trainer)
    print(f"without a cache: {rate:8.1f} images/s")
    for name, flag in (("in memory", "--cache_latents"), ("on a disk", "--cache_latents_to_disk")):
        spent, trainer = seconds(partial(build, "cached", flag))
        faster = epoch_rate(trainer)
        print(f"{name}:       {faster:8.1f} images/s, {faster / rate:.1f} times as many")
        print(f"    encoding all of them and their mirror images: {spent - without:.1f} s")
    again, _ = seconds(lambda: build("cached", "--cache_latents_to_disk"))
    print(f"    when they are there already: {again - without:.2f} s")
    report_bytes(folder / "cached" / "cache" / "latents", count)


def make_pipeline(folder: Path) -> Path:
    pipeline = tiny_pipeline_dir(folder)
    tiny_vae(**VAE).save_pretrained(str(pipeline / "vae"))
    return pipeline


def epoch_rate(trainer: StableDiffusionTrainer) -> float:
    """Images a second over an epoch, after one batch to warm up."""
    batches, seen, begin = iter(trainer.make_loader(None)), 0, 0.0
    for number, batch in enumerate(batches):
        latents(trainer, batch)
        if number == 0:
            begin = time.perf_counter()
        else:
            seen += BATCH
    return seen / (time.perf_counter() - begin)


def latents(trainer: StableDiffusionTrainer, batch: Any) -> Any:
    noise = draw(batch["seed"], trainer.latent_shape(batch), num_train_timesteps=1000).vae_noise
    vae = trainer.bundle.vae
    vae.eval()
    found = encode(vae, batch["pixels"], noise) if "pixels" in batch else sample(vae, batch["moments"], noise)
    return float(found.mean())  # waits for it


def report_bytes(cache: Path, images: int) -> None:
    store, paths = ArrayFolder(cache), list(cache.glob("*/*.safetensors"))
    arrays = [store.read(path.stem) for path in paths]
    held = sum(array.nbytes for array in arrays if array is not None)
    on_disk = sum(path.stat().st_size for path in paths)
    print(f"bytes an image, with its mirror image: {held / images:.0f} in memory, {on_disk / images:.0f} on the disk")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what it gives."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


if __name__ == "__main__":
    main()
