"""Flags of image folders and of Hugging Face datasets on a disk."""

from dataclasses import dataclass


@dataclass
class FolderArguments:
    """Flags of image folders and of Hugging Face datasets on a disk."""

    def check_folder(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
