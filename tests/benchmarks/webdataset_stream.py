"""The webdataset library reading, shuffling and batching, around the decoder, crop and tokenizer of ppsd."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from ppsd import compat  # isort: skip  # noqa: F401  before paddle

import numpy as np
import paddle
import webdataset

from ppsd.data.config import StreamConfig
from ppsd.data.sample import SampleMaker
from ppsd.data.tokens import TokenizeCaptions
from ppsd.types import Record, Sample

SHUFFLED = 800  # undecoded records: as many as ppsd's 8 lanes hold by default for a set this small


def webdataset_batches(
    tars: Sequence[str], resolution: int, tokenizer: Any, batch_size: int
) -> Iterator[dict[str, paddle.Tensor]]:
    """Batches without end from tars of NAME.jpg and NAME.txt: pixels uint8 [B,3,H,W], input_ids int64 [B,L]."""
    make_sample = SampleMaker(
        StreamConfig("", resolution=resolution, interpolation="area"), TokenizeCaptions(tokenizer, 77)
    )
    rng = random.Random(0)

    def sample(row: dict[str, bytes]) -> Sample:
        record = Record(row["jpg"], row["txt"].decode())
        made = make_sample(record, rng.getrandbits(63), (resolution, resolution))
        assert isinstance(made, Sample), made
        return made

    def collate(samples: Sequence[Sample]) -> dict[str, paddle.Tensor]:
        return {
            "pixels": paddle.to_tensor(np.stack([sample.pixels for sample in samples])),
            "input_ids": paddle.to_tensor(np.stack([sample.input_ids for sample in samples])),
        }

    rows = webdataset.WebDataset(list(tars), shardshuffle=len(tars), empty_check=False).repeat().shuffle(SHUFFLED)
    return iter(rows.map(sample).batched(batch_size, collation_fn=collate))
