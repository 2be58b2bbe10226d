"""Real photographs go the whole way: create_pretraining_data, stream, VAE reconstruction grid, training steps."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.images import photographs
from tests.trainers.conftest import Run, losses

TOOL = Path(__file__).parents[2] / "tools" / "create_pretraining_data.py"


def test_photographs_go_the_whole_way(tiny_run: Run, tmp_path: Path) -> None:
    photos = photographs()
    for name, data in photos.items():
        (tmp_path / name).write_bytes(data)
    rows = [json.dumps({"caption": f"a photo of {name}", "image": name}) for name in sorted(photos)]
    (tmp_path / "photos.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    packed = ["--input_path", "photos.jsonl", "--output_path", "data", "--output_name", "photos", "--save_gzip_file"]
    subprocess.run([sys.executable, str(TOOL), *packed, "--per_part_file_num", "4"], cwd=tmp_path, check=True)
    trainer = tiny_run.train(
        tmp_path / "out",
        file_list=tmp_path / "data" / "filelist" / "photos.filelist.list",
        resolution=128,
        max_steps=3,
        image_logging_steps=3,
        dataloader_num_workers=1,
    )
    assert all(math.isfinite(loss) for loss in losses(trainer))
    assert trainer.loader.tally.skipped == 0
    grid = np.asarray(Image.open(tmp_path / "out" / "previews" / "reconstruction.png"))
    assert grid.shape == (2 * 128, 4 * 128, 3), "4 originals above 4 reconstructions"
    assert grid[:128].std() > 30, "photographs, not a flat picture"
