"""Training agrees with torch and diffusers: losses, gradient norms and weights of five steps of the real trainer.

How the reference was made is said in fixtures/torch_reference/README.md.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.torch_reference import REFERENCE, sketch, train

CURVES = json.loads((REFERENCE / "curves.json").read_text(encoding="utf-8"))
WHOLE = "v_prediction-min_snr-text_encoder"


def reference_updates(case: str) -> dict[str, np.ndarray]:
    """Of each trained parameter's update: the L2 norm, and sums under four patterns of signs."""
    with safe_open(REFERENCE / "updates.safetensors", "np") as file:
        return dict(zip(json.loads(file.metadata()["parameters"]), file.get_tensor(case)))


@pytest.mark.parametrize("case", CURVES)
def test_five_steps_agree_with_diffusers(case, tmp_path, monkeypatch):
    run, expected = train(case, tmp_path, monkeypatch), CURVES[case]
    np.testing.assert_allclose(run["loss"], expected["loss"], rtol=2e-5)
    np.testing.assert_allclose(run["gradient_norm"], expected["gradient_norm"], rtol=5e-5)
    updates = reference_updates(case)
    off, moved = 0.0, 0.0
    for name, value in run["after"].items():
        update = value - run["before"][name]
        if name not in updates:
            assert not update.any(), f"{name} is frozen"
        elif not name.endswith("k_proj.bias"):
            # the sums under random signs differ by about the norm of the difference
            difference, size = np.abs(sketch(update) - updates[name]).max(), updates[name][0]
            assert difference < 3e-3 * size, f"the update of {name} is off by {difference / size:.1e} of its size"
            off, moved = off + difference**2, moved + size**2
    assert np.sqrt(off / moved) < 3e-4


def test_weights_agree_with_diffusers(tmp_path, monkeypatch):
    run, final = train(WHOLE, tmp_path, monkeypatch), load_file(REFERENCE / "final.safetensors")
    assert set(run["after"]) == set(final)
    off = np.sqrt(sum(((run["after"][name] - final[name]).astype(np.float64) ** 2).sum() for name in final))
    size = np.sqrt(sum((final[name].astype(np.float64) ** 2).sum() for name in final))
    moved = np.sqrt(sum(((run["before"][name] - final[name]).astype(np.float64) ** 2).sum() for name in final))
    assert off / size < 1e-5
    assert off / moved < 5e-4


def test_accumulated_halves_are_one_batch(tmp_path, monkeypatch):
    run, expected = train(WHOLE, tmp_path, monkeypatch, accumulate=2), CURVES[WHOLE]
    np.testing.assert_allclose(run["loss"], expected["loss"], rtol=2e-5)
    np.testing.assert_allclose(run["gradient_norm"], expected["gradient_norm"], rtol=5e-5)
