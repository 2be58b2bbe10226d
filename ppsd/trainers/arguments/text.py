"""Flags of how text is encoded."""

from dataclasses import dataclass


@dataclass
class TextArguments:
    """Flags of how text is encoded."""

    def check_text(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
