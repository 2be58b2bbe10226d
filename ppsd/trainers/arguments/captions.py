"""Flags of what happens to captions."""

from dataclasses import dataclass


@dataclass
class CaptionArguments:
    """Flags of what happens to captions."""

    def check_captions(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
