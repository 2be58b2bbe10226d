"""DreamBooth and textual inversion agree with torch and diffusers: five steps of the real trainer, and the gradients.

Full fine-tuning, with Min-SNR and the text encoder, is in test_torch_agreement.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import ppsd.compat  # noqa: F401  before paddle

import numpy as np
import pytest
from paddle import nn
from safetensors import safe_open
from safetensors.numpy import load_file

from ppsd.models.bundle import Bundle
from ppsd.models.placeholder import AddedRows, ExtendedEmbedding
from tests.torch_reference import REFERENCE, Batches, sketch, train

CURVES = json.loads((REFERENCE / "methods.json").read_text(encoding="utf-8"))
PRIOR_LOSS_WEIGHT = 0.6
ROWS = load_file(REFERENCE / "textual_inversion.safetensors")
# The reference has the instance images of a batch first, then the class images; the data alternates.
PAIRED = Batches(order=(0, 2, 1, 3), weight=(2.0, 2.0, 2.0 * PRIOR_LOSS_WEIGHT, 2.0 * PRIOR_LOSS_WEIGHT))


def reference_sketches(case: str, what: str) -> dict[str, np.ndarray]:
    """Of each trained parameter: the L2 norm of its gradient or update, and its sums under four patterns of signs."""
    with safe_open(REFERENCE / "dreambooth.safetensors", "np") as file:
        return dict(zip(json.loads(file.metadata()[case]), file.get_tensor(f"{case}.{what}")))


def distance(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Relative, over all parameters; the sums under random signs differ by about the norm of the difference."""
    off, size = 0.0, 0.0
    for name, value in expected.items():
        if not name.endswith("k_proj.bias"):  # zero in exact arithmetic
            off += float(np.abs(sketch(found[name]) - value).max() ** 2)
            size += float(value[0] ** 2)
    return float(np.sqrt(off / size))


@pytest.mark.parametrize("case", ["dreambooth", "dreambooth-text_encoder"])
def test_dreambooth_with_prior_preservation(case, tmp_path, monkeypatch, record_property):
    run, expected = train(case, tmp_path, monkeypatch, batches=PAIRED), CURVES[case]
    updates = {name: value - run["before"][name] for name, value in run["after"].items()}
    figures = {
        "loss": np.abs(np.array(run["loss"]) / expected["loss"] - 1).max(),
        "gradient norm": np.abs(np.array(run["gradient_norm"]) / expected["gradient_norm"] - 1).max(),
        "gradients of step 1": distance(run["gradients"], reference_sketches(case, "gradients")),
        "updates": distance(updates, reference_sketches(case, "updates")),
    }
    record_property("table", "\n".join(f"{name:20} {value:.1e} off" for name, value in figures.items()))
    assert figures["loss"] < 1e-5
    assert figures["gradient norm"] < 5e-5
    assert figures["gradients of step 1"] < 2e-5
    assert figures["updates"] < 3e-4
    frozen = set(updates) - set(reference_sketches(case, "updates"))
    assert bool(frozen) == (case == "dreambooth")
    assert not any(updates[name].any() for name in frozen)


def test_the_prior_is_a_weight_of_the_data(tmp_path, monkeypatch):
    """The loss is diffusers' formula, mean(instance) + weight * mean(prior), not the mean over all samples."""
    expected = CURVES["dreambooth"]
    formula = np.array(expected["instance_loss"]) + PRIOR_LOSS_WEIGHT * np.array(expected["prior_loss"])
    np.testing.assert_allclose(formula, expected["loss"], rtol=1e-6)
    without = train("dreambooth", tmp_path, monkeypatch)
    assert abs(without["loss"][0] / expected["loss"][0] - 1) > 0.1


def add_rows(case: str, bundle: Bundle) -> dict[str, nn.Layer]:
    """With the ids of the reference, which follow its vocabulary of 60."""
    embeddings = bundle.text_encoder.text_model.embeddings
    added = AddedRows({"rows": ROWS[f"{case}.rows"]})
    embeddings.token_embedding = ExtendedEmbedding(embeddings.token_embedding, added, first=60)
    return {"embeddings": added}


@pytest.mark.parametrize("case", ["epsilon", "epsilon-decayed", "v_prediction-min_snr", "v_prediction-min_snr-decayed"])
def test_textual_inversion(case, tmp_path, monkeypatch, record_property):
    """The gradient comes through the frozen UNet and the frozen text encoder, whose norms are no ones."""

    def networks(bundle: Bundle, words: Sequence[str]) -> dict[str, nn.Layer]:
        return add_rows(case, bundle)

    decay = 0.01 if case.endswith("decayed") else 0.0
    options = {"networks": networks, "learning_rate": 1e-2, "weight_decay": decay}
    run = train(case, tmp_path, monkeypatch, batches=Batches(input_ids=ROWS["input_ids"]), **options)
    gradient, expected = run["gradients"]["embeddings.rows"], ROWS[f"{case}.gradients"]
    moved, wanted = run["after"]["embeddings.rows"], ROWS[f"{case}.rows_after"]
    norms = np.sqrt((expected.astype(np.float64) ** 2).sum((1, 2)))
    losses = CURVES[f"textual_inversion-{case}"]["loss"]
    figures = {
        "loss": np.abs(np.array(run["loss"]) / losses - 1).max(),
        "gradient of step 1": np.linalg.norm(gradient - expected[0]) / norms[0],
        "gradient norm": np.abs(np.array(run["gradient_norm"]) / norms - 1).max(),
        "update": np.linalg.norm(moved - wanted) / np.linalg.norm(wanted - ROWS[f"{case}.rows"]),
    }
    record_property("table", "\n".join(f"{name:20} {value:.1e} off" for name, value in figures.items()))
    assert figures["loss"] < 1e-5
    assert figures["gradient of step 1"] < 1e-4
    assert figures["gradient norm"] < 1e-4
    assert figures["update"] < 3e-4
    for name, value in run["after"].items():
        if name != "embeddings.rows":
            np.testing.assert_array_equal(value, run["before"][name], err_msg=name)
