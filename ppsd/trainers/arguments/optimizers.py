"""Flags of the optimizer and of what saves memory."""

from dataclasses import dataclass


@dataclass
class OptimizerArguments:
    """Flags of the optimizer and of what saves memory."""

    def check_optimizers(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
