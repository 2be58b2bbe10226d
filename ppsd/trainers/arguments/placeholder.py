"""Flags of new tokens whose embeddings are trained."""

from dataclasses import dataclass


@dataclass
class PlaceholderArguments:
    """Flags of new tokens whose embeddings are trained."""

    def check_placeholder(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
