"""The real diffusers loads what ppsd exports, and computes the same."""

from __future__ import annotations

import numpy as np
import pytest

LIMITS = {
    "hidden": 1e-5,
    "unet": 1e-5,
    "mean": 1e-5,
    "logvar": 1e-5,
    "decoded": 1e-5,
    "alphas_cumprod": 1e-6,
    "pictures": 1e-4,  # in [0,1], after four steps with guidance
}
HALF = {"pictures": 2e-2, "alphas_cumprod": 1e-6}  # weights rounded to 11 bits
PIPELINES = ["trained", "sd2", "tokens", "embeddings", "embeddings-a1111"]

pytestmark = pytest.mark.timeout(1800)  # the first one makes the environment, over whatever network there is


@pytest.mark.parametrize("name", [*PIPELINES, "half", "sdxl-unet"])
def test_outputs_agree(name, cases, record_property):
    case = cases[name]
    assert case.found.keys() == case.expected.keys()
    outputs = [output for output in case.expected if output != "input_ids"]
    off = {output: float(np.abs(case.found[output] - case.expected[output]).max()) for output in outputs}
    record_property("table", "\n".join(f"{output:16} {value:.1e}" for output, value in off.items()))
    for output, value in off.items():
        limit = HALF.get(output, 1e-2) if name == "half" else LIMITS[output]
        assert value < limit, f"{output} differs by {value:.1e}"
        assert case.expected[output].std() > 1e-3, f"{output} says nothing: it is nearly constant"


@pytest.mark.parametrize("name", PIPELINES)
def test_prompts_become_the_same_tokens(name, cases):
    case = cases[name]
    np.testing.assert_array_equal(case.found["input_ids"], case.expected["input_ids"])
    words = len(np.unique(case.expected["input_ids"]))
    assert words > 6


def test_new_tokens_are_there(cases):
    """With the ids that follow the vocabulary's 550, each as a token of its own."""
    assert (cases["tokens"].found["input_ids"] == 550).sum(1).tolist() == [1, 2]
    assert [row[row >= 550].tolist() for row in cases["embeddings"].found["input_ids"]] == [
        [550, 551, 552],
        [550, 551, 552] * 2,
    ]


def test_embedding_files_of_both_forms_are_the_same(cases):
    """And they act: without them the tokens would be letters."""
    one, other = cases["embeddings"].found, cases["embeddings-a1111"].found
    np.testing.assert_array_equal(one["hidden"], other["hidden"])
    assert np.abs(one["pictures"] - cases["trained"].found["pictures"]).max() > 1e-3
