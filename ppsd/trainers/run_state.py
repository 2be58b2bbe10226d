"""What a run is besides weights and data, as JSON: schedule, loss scaler, random states, flags, versions."""

from __future__ import annotations

import json
import logging
import platform
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ppsd.compat import generator_numbers, generator_state

import numpy as np
import paddle
import paddlenlp
import ppdiffusers
from paddle.base import core

import ppsd

logger = logging.getLogger(__name__)

STATE = "state.json"
POSITION = "data_position.json"
VERSION = 1


def write_state(
    folder: Path,
    *,
    step: int,
    schedule: Any,
    scaler: Any,
    randoms: Sequence[Mapping[str, Any]],
    flags: Mapping[str, Any],
    unlogged: tuple[float, int],
) -> None:
    """`schedule`: the learning rate's; `scaler`: AMP's, or None; `randoms`: `random_state` of every process.

    `unlogged`: the sum of the losses since the last log, and how many.
    """
    state = {
        "version": VERSION,
        "step": step,
        "versions": versions(),
        "flags": flags,
        "schedule": {name: float(v) if isinstance(v, float) else int(v) for name, v in schedule.state_dict().items()},
        "scaler": scaler_numbers(scaler) if scaler is not None else None,
        "random": list(randoms),
        "unlogged": list(unlogged),
    }
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """Raises ValueError naming the file."""
    file = folder / STATE
    try:
        state = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    if state.get("version") != VERSION:
        raise ValueError(f"{file} has version {state.get('version')}; this ppsd reads {VERSION}")
    return state


def save_positions(folder: Path, positions: Sequence[Mapping[str, Any]]) -> None:
    """Where every process stands in its data."""
    (folder / POSITION).write_text(json.dumps(list(positions)), encoding="utf-8")


def load_positions(folder: Path) -> list[dict[str, Any]]:
    """One of each process that saved. Raises ValueError if the file is missing or broken."""
    try:
        return list(json.loads((folder / POSITION).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} does not say which records were used: {POSITION}: {error}") from error


def versions() -> dict[str, str]:
    modules = {"ppsd": ppsd, "paddle": paddle, "paddlenlp": paddlenlp, "ppdiffusers": ppdiffusers, "numpy": np}
    return {**{name: module.__version__ for name, module in modules.items()}, "python": platform.python_version()}


def scaler_numbers(scaler: Any) -> dict[str, Any]:
    """The state of AMP's GradScaler; its scale is the only array."""
    state = scaler.state_dict()
    return {**state, "scale": float(np.asarray(state["scale"]).reshape(-1)[0])} if state else {}


def load_scaler(scaler: Any, numbers: Optional[Mapping[str, Any]]) -> None:
    """None or nothing (a checkpoint of a run without --fp16): the scaler starts anew."""
    if numbers:
        scaler.load_state_dict({**numbers, "scale": np.array([numbers["scale"]], "float32")})


def random_state() -> dict[str, Any]:
    """Of this process: Python's, numpy's and paddle's generators."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
        "cpu": generator_numbers(core.default_cpu_generator().get_state()),
        "device": paddle.get_device().split(":")[0],
        "devices": [generator_numbers(state) for state in paddle.get_rng_state()],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """What `random_state` gave. Paddle's is left as it is where another paddle or kind of device saved it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    device = paddle.get_device().split(":")[0]
    now = paddle.get_rng_state()
    if device != state["device"] or len(now) != len(state["devices"]):
        logger.info("paddle's random state is not restored: other devices saved it (only dropout uses it)")
        return
    restored = [generator_state(old, numbers) for old, numbers in zip(now, state["devices"])]
    cpu = generator_state(core.default_cpu_generator().get_state(), state["cpu"])
    if None in restored or cpu is None:
        logger.info("paddle's random state is not restored: another paddle saved it (only dropout uses it)")
        return
    paddle.set_rng_state(restored)
    core.default_cpu_generator().set_state(cpu)
