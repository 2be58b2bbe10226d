"""Flags of how text is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ppsd.data.tokens import chunks_of
from ppsd.sampling.text import TextSettings
from ppsd.trainers.arguments.flag import flag


@dataclass
class TextArguments:
    """Flags of how text is encoded."""

    model_max_length: int = flag(77, "Tokens a caption is padded or cut to, with both ends.")
    max_token_length: Optional[int] = flag(
        None, "75, 150 or 225: tokens of a caption that are used, without its ends, 75 at a time. Previews likewise."
    )
    clip_skip: Optional[int] = flag(
        None,
        "The text encoder's layer that is used, counted from its last (1, the default), as kohya and A1111 do; 2 for"
        " models that were trained so. Stable Diffusion 2 text encoders come without their last layer: leave it out.",
    )

    @property
    def text_settings(self) -> TextSettings:
        """How captions and prompts are read: for the step, the previews and the note of an export."""
        return TextSettings(self.clip_skip, self.max_token_length)

    def check_text(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        chunks_of(self.max_token_length, self.model_max_length)
        if self.clip_skip is not None and self.clip_skip < 1:
            raise ValueError(f"--clip_skip is {self.clip_skip}; 1 is the text encoder's last layer")
