"""Text-to-image training: the base method, with nothing of its own."""

from __future__ import annotations

from typing import Any, Optional

from ppsd.trainers import running
from ppsd.trainers.run import Run
from ppsd.trainers.trainer import StableDiffusionTrainer


def main(argv: Optional[list[str]] = None) -> None:
    """Parse and train (see ppsd.trainers.running.main)."""
    running.main(StableDiffusionTrainer, argv)


def pretrain(*arguments: Any) -> StableDiffusionTrainer:
    """Train as ModelArguments, DataArguments and SDTrainingArguments say."""
    return running.train(StableDiffusionTrainer, Run(*arguments))
