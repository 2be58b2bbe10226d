"""What other programs read and write: diffusers folders, embedding files, LoRA files."""
