"""From token ids to what the denoiser is told."""

from __future__ import annotations

from typing import Optional

import paddle
from paddle import nn

from ppsd.types import Condition


class Conditioning:
    """CLIP's last hidden state. input_ids int64 [B,L], or its cached hidden [B,L,D] -> Condition(hidden [B,L,D])."""

    def __init__(self, text_encoder: nn.Layer, trained: bool) -> None:
        self.text_encoder, self.trained = text_encoder, trained

    def __call__(self, input_ids: paddle.Tensor, hidden: Optional[paddle.Tensor] = None) -> Condition:
        """Raises ValueError for cached states of a text encoder that is trained."""
        if hidden is not None:
            if self.trained:
                raise ValueError("--train_text_encoder cannot act: the data holds what the text encoder said before")
            return Condition(hidden=hidden)
        if self.text_encoder.training != self.trained:
            self.text_encoder.train() if self.trained else self.text_encoder.eval()
        with paddle.set_grad_enabled(self.trained and paddle.is_grad_enabled()):
            return Condition(hidden=self.text_encoder(input_ids)[0])
