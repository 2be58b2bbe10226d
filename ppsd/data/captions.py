"""What happens to a caption before it is tokenised."""

from __future__ import annotations

from ppsd.data.seeds import Draw, uniform


def drop_caption(caption: str, rate: float, seed: int) -> str:
    """The empty caption with probability `rate`, so that the model learns to draw without a prompt.

    Classifier-free guidance, arXiv 2207.12598, section 3.2.
    """
    return "" if uniform(seed, Draw.CAPTION) < rate else caption
