"""Flags of latents and text embeddings that are made once."""

from dataclasses import dataclass


@dataclass
class CacheArguments:
    """Flags of latents and text embeddings that are made once."""

    def check_cache(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
