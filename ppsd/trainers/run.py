"""What a run was told, and what it has found out about its length."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ppsd.trainers.arguments import DataArguments, ModelArguments, SDTrainingArguments, check_arguments
from ppsd.trainers.data_summary import FolderSummary


@dataclass
class Run:
    """The flags by topic; `own` is the method's own dataclass, where it has one.

    steps_per_epoch: optimizer steps, where an epoch is known (see ppsd.trainers.starting.set_steps). data_summary: of
    the folders that are trained on, for a LoRA file.
    """

    model: ModelArguments
    data: DataArguments
    args: SDTrainingArguments
    own: Any = None
    steps_per_epoch: Optional[int] = None
    data_summary: list[FolderSummary] = field(default_factory=list)

    @property
    def output_name(self) -> str:
        """What a LoRA file is called: as the folder that it is in."""
        return Path(self.args.output_dir).resolve().name

    @property
    def base_name(self) -> str:
        """Of the model that is begun with, without the folders above it."""
        name = self.model.unet_name_or_path or self.model.pretrained_model_name_or_path
        return Path(name).resolve().name if Path(name).exists() else name

    def groups(self) -> list[Any]:
        """The argument dataclasses."""
        return [group for group in (self.model, self.data, self.args, self.own) if group is not None]

    def paths(self) -> list[Optional[str]]:
        """What is read of models."""
        return [*self.model.paths(), getattr(self.own, "controlnet_model_name_or_path", None)]

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
