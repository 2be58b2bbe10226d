"""DreamBooth on cached latents and text is DreamBooth: two sources in turn, the prior as a weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.images import jpeg_bytes
from tests.trainers.conftest import Run, losses
from tests.trainers.test_dreambooth import PRIOR, Subject


def test_losses_are_those_of_the_run_on_the_images(tiny_run: Run, tmp_path: Path) -> None:
    subject = Subject(tiny_run, tmp_path)
    subject.classes.mkdir()
    for number in range(5):
        (subject.classes / f"{number}.jpg").write_bytes(jpeg_bytes(80, 72, seed=50 + number))
    flags = {**PRIOR, "max_steps": 4, "caption_dropout_rate": 0.3}
    plain = subject.train(tmp_path / "plain", **flags, center_crop=True)
    text = {"pre_compute_text_embeddings": True}
    cached = subject.train(tmp_path / "cached", **flags, **text, cache_latents=True)
    assert len(losses(plain)) == 4
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=1e-5)
    assert cached.run.data.cache_text_encoder_outputs
