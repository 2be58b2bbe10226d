"""Flags of validation and of what is saved when."""

from dataclasses import dataclass


@dataclass
class ValidationArguments:
    """Flags of validation and of what is saved when."""

    def check_validation(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
