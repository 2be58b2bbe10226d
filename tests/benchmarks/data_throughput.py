"""How long a sample takes on its way into a batch, stage by stage, and how many samples a second workers deliver.

    python -m tests.benchmarks.data_throughput [--resolution 256] [--num_images 300] [--tokenizer DIR]

The set is made of crops of real photographs, 300-800 px a side, with captions of distinct words of natural frequency.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from ppsd.data.config import StreamConfig
from ppsd.data.decode import decode_image
from ppsd.data.loader import StreamLoader
from ppsd.data.tokens import TokenizeCaptions
from ppsd.data.transforms import training_crop
from ppsd.formats.laion import read_part
from ppsd.types import Record
from tests.images import encode, part_line, photographs, write_lines, write_lists
from tests.tiny import tiny_tokenizer


def make_set(folder: Path, num_images: int, num_parts: int = 4) -> Path:
    """A gzip-compressed set; returns its file list."""
    rng = random.Random(0)
    photos = [image for data in photographs().values() if isinstance(image := decode_image(data), Image.Image)]
    lines = [part_line(_caption(rng), encode(_crop(rng.choice(photos), rng), quality=90)) for _ in range(num_images)]
    parts = [write_lines(folder / f"part-{p + 1:06d}.gz", lines[p::num_parts], compress=True) for p in range(num_parts)]
    return write_lists(folder, {"photos": parts})


def _crop(photo: Image.Image, rng: random.Random) -> Image.Image:
    width, height = rng.randint(300, 800), rng.randint(300, 800)
    scale = max(width / photo.width, height / photo.height)
    resized = photo.resize((max(width, round(photo.width * scale)), max(height, round(photo.height * scale))))
    left, top = rng.randint(0, resized.width - width), rng.randint(0, resized.height - height)
    return resized.crop((left, top, left + width, top + height))


def _caption(rng: random.Random) -> str:
    """5 to 20 words; word number n of a language is about 1 / n as frequent as the first."""
    ranks = [int(20000 ** rng.random()) for _ in range(rng.randint(5, 20))]
    return " ".join(_word(rank) for rank in ranks)


def _word(rank: int) -> str:
    rng = random.Random(rank)
    return "".join(rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(1 + len(str(rank)) // 2 + rank % 3))


def milliseconds(work: Callable[[Any], Any], things: Iterable[Any]) -> tuple[float, list[Any]]:
    """Processor time of `work` per thing, and the results."""
    things = list(things)
    begin = time.process_time()
    results = [work(thing) for thing in things]
    return (time.process_time() - begin) / len(things) * 1000, results


def stages(file_list: Path, tokenizer: Any, resolution: int) -> dict[str, float]:
    """Milliseconds a sample spends in each stage."""
    parts = sorted(file_list.parent.glob("part-*.gz"))
    begin = time.process_time()
    records = [record for part in parts for _, record in read_part(part) if isinstance(record, Record)]
    reading = (time.process_time() - begin) / len(records) * 1000
    decoding, images = milliseconds(lambda record: decode_image(record.image), records)
    cropping, _ = milliseconds(lambda image: training_crop(image, 1, resolution), images)
    tokenising, _ = milliseconds(TokenizeCaptions(tokenizer, 77), [record.caption for record in records])
    return {"inflate + base64": reading, "decode": decoding, "resize + crop": cropping, "tokenise": tokenising}


def samples_per_second(file_list: Path, tokenizer: Any, resolution: int, num_workers: int, batches: int = 30) -> float:
    """Samples a second of a loader with batches of 16, after the first batch."""
    config = StreamConfig(str(file_list), resolution=resolution, buffer_size=20)
    batches_of = iter(StreamLoader(config, tokenizer, batch_size=16, num_workers=num_workers))
    next(batches_of)
    begin = time.perf_counter()
    count = len(list(islice(batches_of, batches)))
    return count * 16 / (time.perf_counter() - begin)


def load_tokenizer(path: str | None) -> Any:
    if path is None:
        return tiny_tokenizer()
    from ppdiffusers.transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--num_images", type=int, default=300)
    parser.add_argument("--tokenizer", help="folder of a CLIP tokenizer; by default a tiny one, which is slower")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        file_list = make_set(Path(folder), args.num_images)
        times = stages(file_list, tokenizer, args.resolution)
        total = sum(times.values())
        print(f"{'stage':<18}{'ms/sample':>10}{'share':>8}")
        for stage, time_spent in times.items():
            print(f"{stage:<18}{time_spent:>10.2f}{time_spent / total:>8.1%}")
        print(f"{'together':<18}{total:>10.2f}")
        print(f"\n{'workers':<18}{'samples/s':>10}")
        for num_workers in (0, 1, 2):
            rate = samples_per_second(file_list, tokenizer, args.resolution, num_workers)
            print(f"{num_workers:<18}{rate:>10.0f}")


if __name__ == "__main__":
    main()
