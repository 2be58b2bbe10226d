"""The position of a run in its data: a few integers a lane, as JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

from ppsd.data.settings import Cursor, LaneSettings, LaneState
from ppsd.data.source import sources_digest

logger = logging.getLogger(__name__)

Position = Mapping[str, Any]


def position_header(settings: LaneSettings) -> dict[str, Any]:
    """What must be the same for a position to mean the same data."""
    header = {
        "num_lanes": settings.num_lanes,
        "seed": settings.seed,
        "buffer_size": settings.buffer_size,
        "shuffle_buffer_mb": settings.buffer_bytes * settings.num_lanes / 2**20,
        "shuffle": settings.shuffle,
        "filter": settings.filter,
        "sources": sources_digest(settings.sources),
        "enable_bucket": settings.buckets is not None,
    }
    if settings.alternate:
        header["alternate"] = True
    if settings.buckets is not None:
        header.update({"per_device_train_batch_size": settings.group_size, **settings.buckets.flags})
    return header


_NAMES = {
    "shuffle": "shuffling (--shuffle_every_n_samples above 0)",
    "sources": "the data of --file_list, --train_data_dir or --dataset_name (a hash of names and first sizes)",
    "alternate": "turns of the sources",
}


def write_position(settings: LaneSettings, samples: int, states: Mapping[int, LaneState]) -> dict[str, Any]:
    """The position after `samples` samples of all devices; `states` are those of some lanes, e.g. one device's."""
    lanes = {
        str(lane): {"draws": state.draws, "cursors": {str(source): list(c) for source, c in state.cursors.items()}}
        for lane, state in sorted(states.items())
    }
    return {**position_header(settings), "samples": samples, "lanes": lanes}


def merge_positions(positions: Union[Position, Iterable[Position]]) -> Position:
    """One position of the lanes of all devices. Raises ValueError when they are not of the same moment of a run."""
    parts: Sequence[Position] = [positions] if isinstance(positions, Mapping) else list(positions)
    if not parts:
        raise ValueError("no data position was given")
    lanes: dict[str, Any] = {}
    for part in parts:
        for key in parts[0]:
            if key != "lanes" and part.get(key) != parts[0][key]:
                raise ValueError(
                    f"data positions of different runs or steps: {key} is {parts[0][key]} and {part.get(key)}"
                )
        lanes.update(part["lanes"])
    return {**parts[0], "lanes": lanes}


def read_position(settings: LaneSettings, position: Position) -> tuple[int, dict[int, LaneState]]:
    """Samples handed out before and the state of every lane. Raises ValueError saying what differs from this run."""
    header = {"alternate": None, **position_header(settings)}
    for key, value in header.items():
        if position.get(key) == value:
            continue
        if key == "filter" and settings.buckets is None:
            logger.warning(
                "--filter was %s and is %s: where --shuffle_buffer_mb limits the buffer, some of its records may come"
                " again or not at all",
                position.get(key),
                value,
            )
            continue
        name = _NAMES.get(key, f"--{key}")
        raise ValueError(
            f"the checkpoint's data position does not fit this run: {name} was {position.get(key)} and is"
            f" {value}; continue with the same value, or start the data over with --ignore_data_skip"
        )
    missing = [lane for lane in range(settings.num_lanes) if str(lane) not in position["lanes"]]
    if missing:
        raise ValueError(f"the data position lacks the lanes {missing}: it must hold those of all devices")
    states = {}
    for lane in range(settings.num_lanes):
        state = position["lanes"][str(lane)]
        states[lane] = LaneState(state["draws"], {int(source): Cursor(*c) for source, c in state["cursors"].items()})
    return position["samples"], states
