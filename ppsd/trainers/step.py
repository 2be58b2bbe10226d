"""One forward pass from a batch to the loss of each sample. The only layer that paddle wraps for data parallelism."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional

import paddle
from paddle import nn

from ppsd.diffusion.draws import Draws
from ppsd.diffusion.objective import Denoise, Objective
from ppsd.models.bundle import Bundle
from ppsd.models.conditioning import Conditioning, freeze_skipped
from ppsd.models.denoiser import PlainDenoiser
from ppsd.models.latents import encode, sample
from ppsd.sampling.text import TextSettings
from ppsd.trainers.trained import trains_text
from ppsd.types import Condition

Told = Callable[[Condition, Bundle, Draws, Mapping[str, paddle.Tensor]], Condition]
"""See Method.told."""


class DiffusionStep(nn.Layer):
    """Holds the bundle's layers; frozen ones compute in eval mode."""

    def __init__(
        self,
        bundle: Bundle,
        objective: Objective,
        trained: Mapping[str, nn.Layer],
        text: TextSettings = TextSettings(),  # noqa: B008  frozen
        *,
        learning: Optional[Iterable[nn.Layer]] = None,
        denoiser: Optional[Denoise] = None,
        told: Optional[Told] = None,
    ) -> None:
        """trained: what is trained, by name; the first is what an EMA averages. learning: the parts of it that change,
        all unless given. denoiser, told: as those of Method, which are the UNet alone and the caption alone."""
        super().__init__()
        self.vae, self.text_encoder, self.unet = bundle.vae, bundle.text_encoder, bundle.unet
        self.trained = dict(trained)
        if bundle.embeddings is not None:
            self.embeddings = bundle.embeddings  # no part of the text encoder
        if bundle.adapter is not None:
            self.adapter = bundle.adapter  # no part of the networks
        if bundle.controlnet is not None:
            self.controlnet = bundle.controlnet
        self.objective, self.text = objective, text
        self.conditioning = Conditioning(bundle.text_encoder, trains_text(trained), text.clip_skip, text.chunks)
        self.denoiser = denoiser or PlainDenoiser(bundle.unet)
        self._told, self._bundle = told, bundle
        bundle.freeze(trained.values() if learning is None else learning)
        freeze_skipped(bundle.text_encoder, text.clip_skip)

    def train(self, *mode: bool) -> Any:
        """paddlenlp asks for it before every step, and the walk over all sublayers is 1 % of a small model's step.

        mode: True where none is given, as in paddle 3, whose eval() comes here with False.
        """
        if all(mode) and self.training and self.unet.training:
            return self
        return super().train(*mode)

    def forward(
        self,
        input_ids: paddle.Tensor,
        draws: Draws,
        pixels: Optional[paddle.Tensor] = None,
        moments: Optional[paddle.Tensor] = None,
        hidden: Optional[paddle.Tensor] = None,
        **beside: paddle.Tensor,
    ) -> paddle.Tensor:
        """pixels uint8 [B,3,H,W], or moments [B,8,h,w] that were cached; input_ids int64 [B,L], and hidden [B,L,D]
        where it was cached, too; beside: a batch's conditions -> losses float32 [B]."""
        if self.vae.training:  # data parallelism sets the mode of all sublayers
            self.vae.eval()
        if moments is None:
            latents = encode(self.vae, pixels, draws.vae_noise)
        else:
            latents = sample(self.vae, moments, draws.vae_noise)
        condition = self.conditioning(input_ids, hidden)
        if self._told is not None:
            batch = beside if pixels is None else {**beside, "pixels": pixels}
            condition = self._told(condition, self._bundle, draws, batch)
        return self.objective.losses(
            self.denoiser, latents, draws.noise, draws.timesteps, condition, draws.noise_for_input
        )
