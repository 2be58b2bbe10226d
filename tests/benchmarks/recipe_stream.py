"""The data method of PaddleMIX's public Stable Diffusion recipe, written anew to be measured against.

Described by the recipe at github.com/PaddlePaddle/PaddleMIX, ppdiffusers/examples/stable_diffusion. Each worker
process owns a run of whole parts and keeps a shuffle buffer of finished float samples, from whose end it takes, and to
whose end it appends. What the recipe does about broken input is left out: this is for clean sets.
"""

from __future__ import annotations

import base64
import gzip
import io
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ppsd import compat  # isort: skip  # noqa: F401  before paddle

import paddle
from paddle.io import DataLoader, IterableDataset, get_worker_info
from paddle.vision import transforms
from PIL import Image

BUFFER_SIZE = 1000
SHUFFLE_EVERY = 5

T = TypeVar("T")


class RecipeStream(IterableDataset):
    """Samples of pixels float32 [3,size,size] in -1..1 and input_ids [L], without end."""

    def __init__(self, parts: Sequence[str], size: int, tokenizer: Any) -> None:
        super().__init__()
        self._parts = list(parts)
        self._size = size
        self._tokenizer = tokenizer
        self._to_pixels = transforms.Compose(
            [
                transforms.Resize(int(size / 0.9), "lanczos"),
                transforms.RandomCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(0.5, 0.5),
            ]
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        parts = self._parts
        if worker is not None:
            share = len(parts) // worker.num_workers
            parts = parts[worker.id * share : (worker.id + 1) * share]
        return shuffled(self._samples(parts))

    def _samples(self, parts: list[str]) -> Iterator[dict[str, Any]]:
        while True:
            random.shuffle(parts)
            for part in parts:
                with gzip.open(part, "rb") as file:
                    while line := file.readline():
                        yield from self._sample(line.decode("utf-8"))

    def _sample(self, line: str) -> Iterator[dict[str, Any]]:
        caption, _, encoded = line.strip().split("\t")[:3]
        image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        if random.random() < 0.1:
            caption = ""
        if min(image.size) >= self._size:
            yield {"pixel_values": self._to_pixels(image), "input_ids": self._tokens(caption)}

    def _tokens(self, caption: str) -> Any:
        length = self._tokenizer.model_max_length
        encoded = self._tokenizer(
            caption, padding="max_length", truncation=True, max_length=length, return_tensors="pd"
        )
        return encoded.input_ids[0]


def shuffled(items: Iterable[T], buffer_size: int = BUFFER_SIZE, every: int = SHUFFLE_EVERY) -> Iterator[T]:
    """`items` as they leave the recipe's shuffle buffer."""
    source = iter(items)
    buffer = [next(source) for _ in range(buffer_size)]
    count = 0
    while True:
        if count % every == 0:
            random.shuffle(buffer)
        yield buffer.pop()
        buffer.append(next(source))
        count += 1


def recipe_loader(parts: Sequence[str], size: int, tokenizer: Any, batch_size: int, num_workers: int) -> DataLoader:
    """Batches as the recipe's trainer gets them."""
    paddle.seed(0)
    random.seed(0)
    return DataLoader(RecipeStream(parts, size, tokenizer), batch_size=batch_size, num_workers=num_workers)
