"""The records that are never trained on, as latents in memory of all processes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle

from ppsd.data.config import StreamConfig
from ppsd.data.held_out_samples import Named, collect
from ppsd.data.holdout import split_source
from ppsd.data.indexed import IndexedSource
from ppsd.data.source import Source, settled
from ppsd.models.bundle import Bundle
from ppsd.models.latents import posterior
from ppsd.trainers.processes import from_first
from ppsd.types import Sample

logger = logging.getLogger(__name__)

_SEED = 0


@dataclass(frozen=True)
class HeldOut:
    """names and samples of the records; each sample is of moments (or pixels), and its seed is a hash of the record's
    content."""

    names: list[str]
    samples: list[Sample]

    def digest(self) -> str:
        """Of which records they are, in which order and size, with which captions."""
        facts = repr([(sample.seed, sample.pixels.shape, sample.input_ids.tolist()) for sample in self.samples])
        return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()


def split(sources: Sequence[Source], share: float) -> tuple[list[Any], list[Any]]:
    """What is trained on, and the records that are not: `share` of each source; none of them with a share of 0.

    Which they are does not depend on --seed, so that runs with different ones can be compared. Raises ValueError for a
    source that has no record to spare.
    """
    if not share:
        return list(sources), []
    pairs = [split_source(source, share, _SEED) for source in sources]
    for trained, held_out in pairs:
        if isinstance(held_out, IndexedSource) and isinstance(trained, IndexedSource):
            count, rest = len(held_out.records), len(trained.records)
            logger.info("%s: %d of %d records are held out", held_out.name, count, count + rest)
    return [trained for trained, _ in pairs], [held_out for _, held_out in pairs]


def hold_out(
    sources: Sequence[Source], config: StreamConfig, bundle: Bundle, most: int, pixels: bool = False
) -> HeldOut:
    """At most `most` records of the held-out `sources`, which the first process reads, for all.

    pixels: moments are not enough. Raises what `collect` raises.
    """

    def read() -> list[Named]:
        found = collect(sources, settled(config, sources), bundle.tokenizer, most)
        return [replace(named, sample=as_latents(bundle, named.sample, pixels)) for named in found]

    found = from_first(read)
    return HeldOut([named.name for named in found], [named.sample for named in found])


@paddle.no_grad()
def as_latents(bundle: Bundle, sample: Sample, pixels: bool = False) -> Sample:
    """Its pixels become moments float32 [8,h,w]; one picture at a time, so that no batch size makes a difference.
    pixels: they stay what they are."""
    nowhere = np.zeros(1, np.int64)
    if pixels:
        return replace(sample, cursor=nowhere)
    moments = sample.pixels
    if moments.dtype == np.uint8:
        bundle.vae.eval()
        moments = posterior(bundle.vae, paddle.to_tensor(moments[None])).numpy()[0]
    return replace(sample, pixels=np.asarray(moments, np.float32), cursor=nowhere)
