"""Samples -> Batch."""

from __future__ import annotations

from collections.abc import Sequence

import ppsd.compat  # noqa: F401  before paddle

import numpy as np
import paddle

from ppsd.types import Batch, Sample


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples: seed, cursor and record as numpy arrays (used on the host), the rest as tensors (see Batch).

    Raises ValueError for images and cached latents in one batch.
    """
    if len({sample.pixels.dtype for sample in samples}) > 1:
        raise ValueError("--file_list mixes images and cached latents: cache all of it, or none")
    stacked = np.stack([sample.pixels for sample in samples])
    batch = Batch(
        input_ids=paddle.to_tensor(np.stack([sample.input_ids for sample in samples])),
        weight=paddle.to_tensor(np.array([sample.weight for sample in samples], dtype=np.float32)),
        seed=np.array([sample.seed for sample in samples], dtype=np.int64),
        cursor=np.stack([sample.cursor for sample in samples if sample.cursor is not None]),
        record=np.array([sample.record for sample in samples], dtype=np.int64),
    )
    if stacked.dtype == np.uint8:
        batch["pixels"] = paddle.to_tensor(stacked)
    else:
        batch["moments"] = paddle.to_tensor(stacked)
    for name in samples[0].extras:
        batch[name] = paddle.to_tensor(np.stack([sample.extras[name] for sample in samples]))  # type: ignore[literal-required]
    return batch
