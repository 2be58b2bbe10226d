"""LoRA and its relatives, on any data: the same as any method with --network_module, which here is lora by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppsd.trainers.any_data import AnyDataTrainer
from ppsd.trainers.run import Run


class LoRATrainer(AnyDataTrainer):
    """Adapters of a text-to-image model."""

    defaults: Mapping[str, Any] = {
        "network_module": "lora",
        "caption_dropout_rate": 0.0,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
    }

    @classmethod
    def check(cls, run: Run) -> None:
        if run.model.network_module is None:
            raise ValueError("--network_module is needed: lora, locon, loha or lokr")
        super().check(run)
