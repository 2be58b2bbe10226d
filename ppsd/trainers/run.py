"""What a run was told, and what it has found out about its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments, check_arguments


@dataclass
class Run:
    """The flags by topic; `own` is the method's own dataclass, where it has one.

    steps_per_epoch: optimizer steps, where an epoch is known (see ppsd.trainers.starting.set_steps).
    """

    model: ModelArguments
    data: DataArguments
    args: SDTrainingArguments
    own: Any = None
    steps_per_epoch: Optional[int] = None

    def groups(self) -> list[Any]:
        """The argument dataclasses."""
        return [group for group in (self.model, self.data, self.args, self.own) if group is not None]

    def image_folders(self) -> dict[str, str]:
        """The folders of images that are trained on, by flag."""
        flags = ("train_data_dir", "instance_data_dir", "class_data_dir")
        named = {flag: getattr(group, flag, None) for group in self.groups() for flag in flags if hasattr(group, flag)}
        return {flag: folder for flag, folder in named.items() if folder is not None}

    def check(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work. Fills in defaults that other flags say."""
        check_arguments(self.model, self.data, self.args)
        if self.model.placeholder_token and self.model.embedding_learning_rate is None:
            self.model.embedding_learning_rate = self.args.asked_learning_rate
