"""The real diffusers, PEFT and LyCORIS load what ppsd writes and compute the same, and the other way round."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.interop.environment import CannotInstall, interpreter
from tests.interop.lora_cases import (
    ENDS,
    HAS_LYCORIS,
    make_inputs,
    networks,
    outputs,
    run_cases,
)

WRITTEN_HERE = [
    *(
        "attention",
        "attention-half",
        "locon",
        "locon-bare",
        "locon-ranks",
        "locon-alpha",
        "tucker",
        "dora",
        "loha-as-lora",
    ),
    *("lokr-as-lora", "kohya", "sdxl", "sdxl-kohya"),
]
LYCORIS = [f"lycoris-{kind}" for kind in ("lora", "tucker", "loha", "loha-tucker", "lokr", "lokr-both", "lokr-whole")]
LYCORIS += [f"lycoris-{kind}-dora" for kind in ("lora", "loha", "lokr")]
FROM_LYCORIS = [f"from-lycoris-{kind}" for kind in ("locon", "loha", "lokr", "lokr-tucker", "lokr-both", "dora")]
FROM_PEFT = ["from-peft", "from-peft-plain", "from-peft-dora"]
with_lycoris = pytest.mark.skipif(not HAS_LYCORIS, reason="lycoris-lora needs Python 3.10")

pytestmark = pytest.mark.timeout(1800)  # the first one makes the environment, over whatever network there is


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    try:
        interpreter()
    except CannotInstall as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NO DIFFUSERS: these tests need pip to reach its package index: {error}")
    return run_cases(tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def without():
    """What the networks compute without any LoRA; by whether it is SDXL's UNet."""
    return [outputs(networks(sdxl), make_inputs()) for sdxl in (False, True)]


def check(case, without, record_property):
    off = {
        name: float(np.abs(case.found[name] - value).max())
        for name, value in case.expected.items()
        if name in case.found
    }
    acts = {name: float(np.abs(case.expected[name] - without[case.sdxl][name]).max()) for name in off}
    record_property("table", "\n".join(f"{name:8} off {off[name]:.1e} of {acts[name]:.1e}" for name in off))
    for name, value in off.items():
        assert value < 2e-5, f"{name} differs by {value:.1e}"
        assert acts[name] > 0.1, f"{name} hardly changes: {acts[name]:.1e}"


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_diffusers_computes_the_same(name, loras, without, record_property):
    assert set(loras[name].found) == ({"unet"} if loras[name].sdxl else {"unet", "hidden"})
    check(loras[name], without, record_property)


@with_lycoris
@pytest.mark.parametrize("name", LYCORIS)
def test_lycoris_computes_the_same(name, loras, without, record_property):
    check(loras[name], without, record_property)


@pytest.mark.parametrize("name", [*FROM_PEFT, *(pytest.param(name, marks=with_lycoris) for name in FROM_LYCORIS)])
def test_what_they_write_is_the_same_here(name, loras, without, record_property):
    check(loras[name], without, record_property)


def test_the_cases_are_what_they_say(loras):
    """Alphas that are not the rank, several ranks, every kind of layer."""
    locon = loras["locon"].lora.layers
    assert {float(factors["alpha"]) / len(factors["lora_down.weight"]) for factors in locon.values()} == {0.5, 0.75}
    assert {place.path.split(".")[0] for place in locon} >= {
        *ENDS[:3],
        "down_blocks",
        "mid_block",
        "up_blocks",
        "text_model",
    }
    assert {factors["lora_down.weight"].ndim for factors in locon.values()} == {2, 4}
    found = {path for place in loras["sdxl-kohya"].lora.layers for path in place.path.split(".")[2:3]}
    assert found >= {"resnets", "attentions", "upsamplers", "downsamplers"}
    assert loras["from-peft"].lora.form == "diffusers"
    alphas = {place.path.rsplit(".", 1)[-1]: float(f["alpha"]) for place, f in loras["from-peft"].lora.layers.items()}
    assert (alphas["to_q"], alphas["fc1"], alphas["conv1"]) == (5, 7, 2)
