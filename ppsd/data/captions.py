"""What happens to a caption before it is tokenised.

The order is that of `process_caption` in kohya's sd-scripts (library/train_util.py): prefix, dropout of the whole
caption, then tags: shuffled, and dropped one by one. Undesired tags go before all that, as kohya's tagger never writes
them. Other than there, a caption of several lines keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Optional

from ppsd.data.seeds import Draw, permutation, uniform

if TYPE_CHECKING:
    from ppsd.data.config import StreamConfig

RULES = ("first", "random", "longest", "shortest")
SEPARATOR = ","
# Settings that make another caption of a record's, at their defaults.
CHANGES = {
    "caption_prefix": None,
    "trigger_words": None,
    "undesired_tags": None,
    "shuffle_caption": False,
    "caption_tag_dropout_rate": 0.0,
}


def make_caption(captions: Sequence[str], config: StreamConfig, seed: int) -> tuple[str, bool]:
    """The caption to train with, and whether the empty one has taken its place.

    captions: a record's, at least one. All chance comes from the sample's seed.
    """
    caption = choose_caption(captions, config.caption_rule, seed)
    if is_dropped(config.caption_dropout_rate, seed):
        return "", caption != ""
    trigger = tags_of(config.trigger_words)
    caption = without_tags(caption, {*tags_of(config.undesired_tags), *trigger})
    if config.caption_prefix:
        caption = f"{config.caption_prefix} {caption}"
    if config.shuffle_caption or config.caption_tag_dropout_rate > 0:
        caption = change_tags(
            caption, seed, config.keep_tokens, config.shuffle_caption, config.caption_tag_dropout_rate
        )
    return ", ".join([*trigger, *([caption] if caption else [])]) if trigger else caption, False


def choose_caption(captions: Sequence[str], rule: str, seed: int) -> str:
    """One of a record's captions, which are at least one; all chance comes from the sample's seed."""
    if rule == "random":
        return captions[int(uniform(seed, Draw.CHOICE) * len(captions))]
    if rule == "first":
        return captions[0]
    return max(captions, key=len) if rule == "longest" else min(captions, key=len)


def is_dropped(rate: float, seed: int) -> bool:
    """With probability `rate`, so that the model learns to draw without a prompt.

    Classifier-free guidance, arXiv 2207.12598, section 3.2.
    """
    return uniform(seed, Draw.CAPTION) < rate


def change_tags(caption: str, seed: int, keep: int, shuffle: bool, dropout_rate: float) -> str:
    """The first `keep` tags as they are, of the others each dropped with probability `dropout_rate`, in any order.

    Whether a tag is dropped does not depend on where shuffling puts it.
    """
    tags = [tag.strip() for tag in caption.strip().split(SEPARATOR)]
    kept, others = tags[:keep], tags[keep:]
    order = permutation(len(others), seed, Draw.TAG_ORDER).tolist() if shuffle else range(len(others))
    stay = [i for i in order if uniform(seed, Draw.TAG, i) >= dropout_rate]
    return ", ".join([*kept, *(others[i] for i in stay)])


def without_tags(caption: str, unwanted: Iterable[str]) -> str:
    """Without the tags that are one of `unwanted` to the letter; unchanged where there are none."""
    unwanted = frozenset(unwanted)
    if not unwanted:
        return caption
    tags = caption.split(SEPARATOR)
    left = [tag for tag in tags if tag.strip() not in unwanted]
    return caption if len(left) == len(tags) else ", ".join(tag.strip() for tag in left)


def tags_of(text: Optional[str]) -> list[str]:
    """The tags of a comma-separated list, without empty ones."""
    return [tag.strip() for tag in (text or "").split(SEPARATOR) if tag.strip()]


def changing_flag(config: object) -> Optional[str]:
    """The first flag with which another caption than the record's is used: "--name"; None where there is none."""
    return next((f"--{name}" for name, default in CHANGES.items() if getattr(config, name) != default), None)


def check_captions(config: object) -> None:
    """Raise ValueError naming the flag whose value cannot work."""
    for name in ("caption_dropout_rate", "caption_tag_dropout_rate"):
        rate = getattr(config, name)
        if not 0 <= rate <= 1:
            raise ValueError(f"--{name} {rate} is not between 0 and 1")
    keep = getattr(config, "keep_tokens", 0)
    if keep < 0:
        raise ValueError(f"--keep_tokens {keep} is negative; 0 keeps none in place")
    for name in ("trigger_words", "undesired_tags"):
        text = getattr(config, name)
        if text is not None and not tags_of(text):
            raise ValueError(f"--{name} {text!r} names no tag; leave it out, or give some, separated by commas")
