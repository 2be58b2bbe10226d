"""The noise schedule of a diffusers scheduler config: x_t = alpha_t x_0 + sigma_t noise, float32 at any AMP level."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import numpy as np
import paddle

logger = logging.getLogger(__name__)

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def _linear(start: float, end: float, steps: int) -> np.ndarray:
    return np.linspace(start, end, steps)


def _scaled_linear(start: float, end: float, steps: int) -> np.ndarray:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


def _squared_cosine(start: float, end: float, steps: int) -> np.ndarray:
    """Nichol and Dhariwal, arXiv 2102.09672, eq. 17; does not use the bounds."""
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


_BETAS: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
}


@dataclass(frozen=True)
class NoiseSchedule:
    """The schedule of T = len(betas) steps, and what the model it belongs to predicts.

    The tables are constants made from float64 betas, not buffers of a layer: AMP O2 would cast those.
    """

    betas: np.ndarray
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)
        if self.betas.ndim != 1 or not self.betas.size or not ((self.betas >= 0) & (self.betas <= 1)).all():
            raise ValueError("betas must be a list of numbers from 0 to 1")

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], prediction_type: Optional[str] = None, source: str = "scheduler config"
    ) -> NoiseSchedule:
        """From the fields of a diffusers scheduler config. `prediction_type` overrides the config's.

        Nothing about the noise has a default: ValueError, beginning with `source`, for what is missing or unknown.
        Give the file's own fields: the `.config` of a scheduler object has the class's defaults mixed in.
        """
        try:
            betas = _betas(config)
            if config.get("rescale_betas_zero_snr"):
                betas = rescale_zero_terminal_snr(betas)
            schedule = cls(betas, prediction_type or config.get("prediction_type", "epsilon"))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        if schedule.prediction_type == "epsilon" and schedule.alphas_cumprod[-1] == 0:
            logger.warning("%s: zero terminal SNR with epsilon prediction teaches nothing at the last step", source)
        return schedule

    @property
    def num_train_timesteps(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """The share of the signal's variance left at each step, float64 [T]."""
        return np.cumprod(1 - self.betas)

    def add_noise(self, x0: paddle.Tensor, noise: paddle.Tensor, timesteps: paddle.Tensor) -> paddle.Tensor:
        """x_t. x0, noise [B,C,h,w] of any float type; timesteps [B] int64 -> float32 [B,C,h,w]."""
        with paddle.amp.auto_cast(enable=False):
            alpha, sigma = self._alpha_sigma(timesteps, x0.ndim)
            return alpha * x0.astype("float32") + sigma * noise.astype("float32")

    def velocity(self, x0: paddle.Tensor, noise: paddle.Tensor, timesteps: paddle.Tensor) -> paddle.Tensor:
        """v = alpha_t noise - sigma_t x_0 (arXiv 2202.00512, appendix D). Shapes as in `add_noise`."""
        with paddle.amp.auto_cast(enable=False):
            alpha, sigma = self._alpha_sigma(timesteps, x0.ndim)
            return alpha * noise.astype("float32") - sigma * x0.astype("float32")

    def snr(self, timesteps: paddle.Tensor) -> paddle.Tensor:
        """alpha_t^2 / sigma_t^2, float32 [B]; 0 at a zero-SNR terminal step, infinite where there is no noise."""
        with paddle.amp.auto_cast(enable=False):
            return paddle.gather(self._tables["snr"], timesteps)

    def _alpha_sigma(self, timesteps: paddle.Tensor, ndim: int) -> tuple[paddle.Tensor, paddle.Tensor]:
        shape = [-1] + [1] * (ndim - 1)
        alpha, sigma = (paddle.gather(self._tables[name], timesteps).reshape(shape) for name in ("alpha", "sigma"))
        return alpha, sigma

    @cached_property
    def _tables(self) -> dict[str, paddle.Tensor]:
        """On the device in use at the first look-up, which may be set after the schedule is made."""
        signal, noise = self.alphas_cumprod, 1 - self.alphas_cumprod
        snr = np.divide(signal, noise, out=np.full_like(signal, np.inf), where=noise > 0)
        tables = {"alpha": np.sqrt(signal), "sigma": np.sqrt(noise), "snr": snr}
        return {name: paddle.to_tensor(table.astype(np.float32)) for name, table in tables.items()}


def check_prediction_type(prediction_type: str) -> None:
    """ValueError unless it is one that ppsd can train."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"unknown prediction_type {prediction_type!r}; known are {', '.join(PREDICTION_TYPES)}")


def rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Betas [T] shifted so that the last step is pure noise, the first unchanged. arXiv 2305.08891, algorithm 1."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    return 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    """float64 [T]."""
    if config.get("trained_betas") is not None:
        return _trained_betas(config)
    missing = [key for key in ("num_train_timesteps", "beta_schedule") if config.get(key) is None]
    name = config.get("beta_schedule")
    if name != "squaredcos_cap_v2":
        missing += [key for key in ("beta_start", "beta_end") if config.get(key) is None]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a scheduler config says which noise the model was trained on")
    if name not in _BETAS:
        raise ValueError(f"unknown beta_schedule {name!r}; known are {', '.join(_BETAS)}")
    start, end = (_number(config, key) for key in ("beta_start", "beta_end"))
    return _BETAS[name](start, end, _steps(config))


def _trained_betas(config: Mapping[str, Any]) -> np.ndarray:
    try:
        betas = np.asarray(config["trained_betas"], dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("trained_betas must be a list of numbers") from None
    if config.get("num_train_timesteps") is not None and betas.size != _steps(config):
        raise ValueError(f"{betas.size} trained_betas for num_train_timesteps {config['num_train_timesteps']}")
    return betas


def _steps(config: Mapping[str, Any]) -> int:
    steps = config["num_train_timesteps"]
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"num_train_timesteps must be a whole number of at least 1, not {steps!r}")
    return steps


def _number(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key, 0.0)
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{key} must be a number from 0 to 1, not {value!r}")
    return float(value)
