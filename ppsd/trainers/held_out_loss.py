"""The loss of held-out records on noise and timesteps that never change: only the weights make a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppsd.data.collate import collate
from ppsd.data.seeds import derive_seed
from ppsd.diffusion.draws import Draws, draw
from ppsd.trainers.held_out import HeldOut

LEAST_TIMESTEPS = 4
LEAST_DRAWS = 64  # of all records: a few of them get more timesteps each

Losses = Callable[[Mapping[str, Any], Draws], paddle.Tensor]
LatentShape = Callable[[Mapping[str, Any]], tuple[int, int, int]]


def timesteps_each(records: int) -> int:
    """How many timesteps a record is noised to."""
    return max(LEAST_TIMESTEPS, -(-LEAST_DRAWS // records))


def fixed_draws(
    seeds: Sequence[int],
    strata: Sequence[int],
    count: int,
    latent_shape: Sequence[int],
    num_train_timesteps: int,
    noise_offset: float = 0.0,
    masked: bool = False,
) -> Draws:
    """Of records with these seeds, noise and a timestep in stratum k of `count` equal parts of the schedule.

    seeds, strata [B]. Strata instead of free draws: the loss depends on the timestep more than on all else.
    """
    drawn = draw(
        [derive_seed(seed, stratum) for seed, stratum in zip(seeds, strata)],
        latent_shape,
        num_train_timesteps=num_train_timesteps,
        noise_offset=noise_offset,
        masked=masked,
    )
    within = np.asarray(drawn.timesteps.numpy())
    timesteps = (np.asarray(strata, np.int64) * num_train_timesteps + within) // count
    return replace(drawn, timesteps=paddle.to_tensor(timesteps))


class HeldOutLoss:
    """losses: what training computes of a batch and draws [B]; latent_shape: (C,h,w) of a batch. batch_size: forward
    passes made at once.

    noise_offset: as in training, whose loss it is a part of. Input perturbation is not: it is there to be overcome.
    """

    def __init__(
        self,
        held_out: HeldOut,
        losses: Losses,
        network: nn.Layer,
        latent_shape: LatentShape,
        *,
        batch_size: int,
        num_train_timesteps: int,
        noise_offset: float = 0.0,
    ) -> None:
        self.held_out, self.losses, self.network, self.latent_shape = held_out, losses, network, latent_shape
        self.num_train_timesteps, self.noise_offset = num_train_timesteps, noise_offset
        self.count = timesteps_each(len(held_out.samples))
        self.batches = _batches(held_out, self.count, batch_size)

    def share(self, rank: int, size: int, beat: Callable[[], None]) -> list[tuple[int, int, float]]:
        """This process's part of all: (record, stratum, loss). beat: called after each batch."""
        found: list[tuple[int, int, float]] = []
        with evaluating(self.network), paddle.no_grad():
            for batch in self.batches[rank::size]:
                records, strata = zip(*batch)
                samples = [self.held_out.samples[record] for record in records]
                inputs = collate(samples)
                draws = fixed_draws(
                    [sample.seed for sample in samples],
                    strata,
                    self.count,
                    self.latent_shape(inputs),
                    self.num_train_timesteps,
                    self.noise_offset,
                    masked="mask" in inputs,
                )
                values = self.losses(inputs, draws).astype("float32").numpy()
                found += [(*place, float(value)) for place, value in zip(batch, values)]
                beat()
        return found

    def means(self, shares: Sequence[Sequence[tuple[int, int, float]]]) -> np.ndarray:
        """float64 [N]: each record's mean over its timesteps. shares: those of all processes."""
        table = np.full((len(self.held_out.samples), self.count), np.nan)
        for record, stratum, value in (entry for share in shares for entry in share):
            table[record, stratum] = value
        return np.asarray(table.mean(axis=1))


def _batches(held_out: HeldOut, count: int, size: int) -> list[list[tuple[int, int]]]:
    """(record, stratum) of each batch; pictures of one shape. It does not matter how many processes share them."""
    shapes: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for record, sample in enumerate(held_out.samples):
        shapes.setdefault(sample.pixels.shape, []).extend((record, stratum) for stratum in range(count))
    return [rows[start : start + size] for rows in shapes.values() for start in range(0, len(rows), size)]


@contextmanager
def evaluating(network: nn.Layer) -> Iterator[None]:
    """Within, no layer drops anything out; after, each is in the mode it was in."""
    layers = network.sublayers(include_self=True)
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes):
            layer.training = mode
