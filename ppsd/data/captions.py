"""What happens to a caption before it is tokenised."""

from __future__ import annotations

from collections.abc import Sequence

from ppsd.data.seeds import Draw, uniform

RULES = ("first", "random", "longest", "shortest")


def choose_caption(captions: Sequence[str], rule: str, seed: int) -> str:
    """One of a record's captions, which are at least one; all chance comes from the sample's seed."""
    if rule == "random":
        return captions[int(uniform(seed, Draw.CHOICE) * len(captions))]
    if rule == "first":
        return captions[0]
    return max(captions, key=len) if rule == "longest" else min(captions, key=len)


def drop_caption(caption: str, rate: float, seed: int) -> str:
    """The empty caption with probability `rate`, so that the model learns to draw without a prompt.

    Classifier-free guidance, arXiv 2207.12598, section 3.2.
    """
    return "" if uniform(seed, Draw.CAPTION) < rate else caption
