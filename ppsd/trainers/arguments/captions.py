"""Flags of what happens to captions."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Optional

from ppsd.data import captions
from ppsd.trainers.arguments.flag import flag

logger = logging.getLogger(__name__)


@dataclass
class CaptionArguments:
    """Flags of what happens to captions."""

    caption_dropout_rate: float = flag(0.1, "Share of captions replaced by the empty one (for guidance).")
    caption_rule: str = flag("first", "Of several captions a record: first, random, longest or shortest.")
    caption_prefix: Optional[str] = flag(
        None, 'Text put before every caption, with a space. A comma at its end ("sks,") makes it a tag of its own.'
    )
    trigger_words: Optional[str] = flag(
        None, "Tags, separated by commas, that every caption begins with: they are never shuffled or dropped alone."
    )
    undesired_tags: Optional[str] = flag(None, "Tags, separated by commas, that are taken out of captions.")
    shuffle_caption: bool = flag(False, "Put a caption's comma-separated tags in another order each time.")
    keep_tokens: int = flag(0, "The first so many tags are neither shuffled nor dropped (--caption_prefix counts).")
    caption_tag_dropout_rate: float = flag(0.0, "Share of tags that are left out of a caption.")

    def check_captions(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        captions.check_captions(self)
        if self.keep_tokens and not (self.shuffle_caption or self.caption_tag_dropout_rate):
            logger.warning("--keep_tokens has nothing to do without --shuffle_caption or --caption_tag_dropout_rate")
