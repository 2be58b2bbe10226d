"""What is minimised: a pure function of latents, noise, timesteps and condition. Written once, here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

import paddle

from ppsd.diffusion.schedule import NoiseSchedule, check_prediction_type
from ppsd.types import Condition

Denoise = Callable[[paddle.Tensor, paddle.Tensor, Condition], paddle.Tensor]


class Objective:
    """Mean squared error to the noise, the velocity or the sample, with Min-SNR weights if `snr_gamma` is given."""

    def __init__(
        self, schedule: NoiseSchedule, prediction_type: Optional[str] = None, snr_gamma: Optional[float] = None
    ) -> None:
        """prediction_type: the schedule's unless given. snr_gamma > 0; the paper's choice is 5."""
        self.schedule = schedule
        self.prediction_type = prediction_type or schedule.prediction_type
        self.snr_gamma = snr_gamma
        check_prediction_type(self.prediction_type)
        if snr_gamma is not None and not snr_gamma > 0:
            raise ValueError(f"snr_gamma must be above 0, not {snr_gamma}; leave it out for no weighting")

    def losses(
        self,
        denoise: Denoise,
        x0: paddle.Tensor,
        noise: paddle.Tensor,
        timesteps: paddle.Tensor,
        condition: Condition,
        noise_for_input: Optional[paddle.Tensor] = None,
    ) -> paddle.Tensor:
        """Per-sample loss. x0, noise [B,C,h,w]; timesteps int64 [B] -> float32 [B].

        x_t is made with `noise_for_input` if given (input perturbation), the target always with `noise`.
        Only `denoise` runs under the caller's autocast; all else is float32 whatever the AMP level.
        """
        x_t = self.schedule.add_noise(x0, noise if noise_for_input is None else noise_for_input, timesteps)
        prediction = denoise(x_t, timesteps, condition)
        with paddle.amp.auto_cast(enable=False):
            error = prediction.astype("float32") - self.target(x0, noise, timesteps)
            losses = error.square().flatten(1).mean(axis=1)
            return losses if self.snr_gamma is None else losses * self.weights(timesteps)

    def target(self, x0: paddle.Tensor, noise: paddle.Tensor, timesteps: paddle.Tensor) -> paddle.Tensor:
        """What `denoise` should return, float32 [B,C,h,w]."""
        if self.prediction_type == "epsilon":
            return noise.astype("float32")
        if self.prediction_type == "v_prediction":
            return self.schedule.velocity(x0, noise, timesteps)
        return x0.astype("float32")

    def weights(self, timesteps: paddle.Tensor) -> paddle.Tensor:
        """Min-SNR weight of each sample, float32 [B]: arXiv 2303.09556, section 3.4. Ones without snr_gamma.

        min(snr, gamma) weighs the error of x_0; an error of epsilon is one of x_0 times snr, of v times snr + 1.
        Written so that snr = 0 (weight 1 for epsilon) and snr = infinity stay finite.
        """
        snr = self.schedule.snr(timesteps)
        if self.snr_gamma is None:
            return paddle.ones_like(snr)
        with paddle.amp.auto_cast(enable=False):
            if self.prediction_type == "epsilon":
                return (self.snr_gamma / snr).clip(max=1.0)
            clipped = snr.clip(max=float(self.snr_gamma))
            return clipped / (snr + 1) if self.prediction_type == "v_prediction" else clipped


def reduce(losses: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """sum(weight * losses) / B, float32 []: the plain mean where every weight is 1.

    The divisor is the number of samples, not the sum of the weights, so the loss of a large batch is the mean of the
    losses of its parts, on however many devices and accumulation steps, and a sample's pull is its own weight alone.
    A DreamBooth batch of B/2 instances (weight 2) and B/2 prior images (weight 2 p) gives, as diffusers has it,
    mean(instance losses) + p * mean(prior losses).
    """
    with paddle.amp.auto_cast(enable=False):
        return (losses.astype("float32") * weight.astype("float32")).mean()
