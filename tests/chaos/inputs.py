"""What the tiny runs read: a random pipeline and eight parts, one for each lane, so that epochs end on all at once."""

from __future__ import annotations

import json
from pathlib import Path

from tests.images import write_parts
from tests.tiny import UNET_CONFIG, tiny_pipeline_dir
from tests.trainers.conftest import Run

RECORDS_PER_PART = [24] * 8


def tiny_inputs(folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "unet.json"
    config.write_text(json.dumps(UNET_CONFIG), encoding="utf-8")
    return Run(tiny_pipeline_dir(folder), config, write_parts(folder, RECORDS_PER_PART, 72, 80))
