"""Which layers get adapters, and what beginning with them changes: nothing."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from ppsd import compat  # isort: skip  before paddle

import paddle
from safetensors.numpy import save_file

from ppsd.adapters.attach import attached, detach
from ppsd.adapters.base import Dropout, Options
from ppsd.adapters.layers import adaptable
from ppsd.adapters.network import AdapterNetwork, check_saved, new_adapters
from ppsd.adapters.targets import PRESETS, Wanted, find_targets
from ppsd.models.placeholder import AddedRows, ExtendedEmbedding
from tests.tiny import tiny_text_encoder, tiny_unet

compat.apply()


def wanted(preset: str, conv_dim: int = 2, **more: bool) -> Wanted:
    return Wanted(2, 2.0, conv_dim, 2.0, preset, **more)


def paths(preset: str, conv_dim: int = 2) -> set[str]:
    models = {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}
    return {f"{place.part}.{place.path}" for place in (t.place for t in find_targets(models, wanted(preset, conv_dim)))}


def test_presets_take_what_kohyas_scripts_and_lycoris_take() -> None:
    attention, transformer, locon, full = (paths(name) for name in ("attn-only", "attn-mlp", "locon", "full"))
    assert attention < transformer < locon < full
    block = "unet.mid_block.attentions.0"
    assert {f"{block}.transformer_blocks.0.attn2.to_out.0"} <= attention
    assert transformer - attention >= {f"{block}.proj_in", f"{block}.transformer_blocks.0.ff.net.0.proj"}
    assert "text_encoder.text_model.encoder.layers.1.mlp.fc1" in transformer - attention
    resnet = "unet.down_blocks.0.resnets.0"
    assert locon - transformer >= {
        f"{resnet}.conv1",
        f"{resnet}.time_emb_proj",
        "unet.down_blocks.0.downsamplers.0.conv",
    }
    assert full - locon == {f"unet.{name}" for name in ("conv_in", "conv_out")} | {
        f"unet.time_embedding.linear_{i}" for i in (1, 2)
    }
    assert not any(path.startswith("text_encoder") for path in paths("unet-transformer-only"))
    assert paths("unet-convblock-only") == {p for p in locon - transformer if p.startswith("unet.")}


def test_without_a_rank_larger_convolutions_are_left_out() -> None:
    left = paths("locon") - paths("locon", conv_dim=0)
    assert all(path.endswith((".conv", ".conv1", ".conv2")) for path in left)
    assert "unet.up_blocks.0.resnets.0.conv_shortcut" in paths("locon", conv_dim=0)  # which is 1 x 1


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("options", [{}, {"tucker": True}, {"dora": True}], ids=["plain", "tucker", "dora"])
def test_new_adapters_change_nothing(algorithm: str, options: dict[str, bool]) -> None:
    unet = tiny_unet()
    given = [paddle.randn([1, 4, 8, 8]), paddle.to_tensor([3]), paddle.randn([1, 77, 16])]
    names, before = set(unet.state_dict()), unet(*given).sample.numpy()
    targets = find_targets({"unet": unet}, wanted("full"))
    new_adapters(targets, algorithm, Options(**options), Dropout(), 0)
    after = unet(*given).sample.numpy()
    if options.get("dora"):  # which divides by lengths and multiplies with them
        np.testing.assert_allclose(after, before, atol=1e-5)
    else:
        np.testing.assert_array_equal(after, before)
    assert set(unet.state_dict()) == names
    for target in targets:
        assert attached(target.layer) is not None
        detach(target.layer)
        assert attached(target.layer) is None
    np.testing.assert_array_equal(unet(*given).sample.numpy(), before)


def test_each_layers_factors_are_its_own_and_come_from_the_seed() -> None:
    def downs(seed: int) -> list[np.ndarray]:
        targets = find_targets({"unet": tiny_unet()}, wanted("attn-only"))
        made = new_adapters(targets, "lora", Options(), Dropout(), seed).values()
        return [adapter.factors()["lora_down.weight"] for adapter in made]

    first, again, other = downs(0), downs(0), downs(1)
    for one, two, three in zip(first, again, other):
        np.testing.assert_array_equal(one, two)
        assert np.abs(one - three).max() > 0
    assert np.abs(first[0] - first[3]).max() > 0


def test_a_rank_that_a_layer_has_no_room_for() -> None:
    with pytest.raises(ValueError, match=r"--network_dim is 9, and .*to_q of the unet is 8 x 8: rank 8 already holds"):
        find_targets({"unet": tiny_unet()}, Wanted(9, 1.0, 2, 1.0, "attn-only"))
    unet = tiny_unet(block_out_channels=(32, 64), attention_head_dim=8)
    ends = [t for t in find_targets({"unet": unet}, Wanted(8, 4.0, 8, 4.0, "full")) if t.place.path == "conv_out"]
    assert [(end.rank, end.alpha) for end in ends] == [(4, 2.0)]  # the same scale


def test_lokr_takes_any_rank_and_then_has_whole_factors() -> None:
    """network_dim 100000 is how LyCORIS's users ask for that."""
    targets = find_targets({"unet": tiny_unet()}, Wanted(100_000, 1.0, 100_000, 1.0, "full", any_rank=True))
    adapters = new_adapters(targets, "lokr", Options(), Dropout(), 0)
    assert len(adapters) == len(targets)
    for adapter in adapters.values():
        assert {"lokr_w1", "lokr_w2"} <= set(adapter.factors())
        assert adapter.scale == 1


def test_patterns_take_the_place_of_a_preset() -> None:
    models = {"unet": tiny_unet()}
    targets = find_targets(models, Wanted(2, 2.0, 2, 2.0, "full", (r"attn2\.to_[kv]$", "^conv_in$")))
    assert {target.place.path.split(".")[-1] for target in targets} == {"to_k", "to_v", "conv_in"}
    with pytest.raises(ValueError, match=r"--network_targets attn3: "):
        find_targets(models, Wanted(2, 2.0, 2, 2.0, "full", ("attn3",)))


def test_a_table_of_new_tokens_is_no_layer_for_adapters() -> None:
    encoder = tiny_text_encoder()
    before = [path for path, _ in adaptable(encoder)]
    embeddings = encoder.text_model.embeddings
    rows = AddedRows({"<toy>": np.zeros([2, encoder.config.hidden_size], np.float32)})
    embeddings.token_embedding = ExtendedEmbedding(embeddings.token_embedding, rows, encoder.config.vocab_size)
    assert [path for path, _ in adaptable(encoder)] == before


def test_every_preset_has_layers() -> None:
    for preset in PRESETS:
        assert find_targets({"unet": tiny_unet()}, wanted(preset))


def test_the_state_is_a_file_of_kohyas(tmp_path: Path) -> None:
    targets = find_targets({"unet": tiny_unet()}, Wanted(4, 1.5, 2, 0.5, "full"))
    network = AdapterNetwork(new_adapters(targets, "lora", Options(), Dropout(), 0))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    assert len(state) == 3 * len(targets)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    assert state[f"{name}.lora_down.weight"].shape == (4, 16)
    assert (state[f"{name}.alpha"].shape, float(state[f"{name}.alpha"])) == ((), 1.5)
    assert float(state["lora_unet_mid_block_resnets_0_conv1.alpha"]) == 0.5
    save_file(state, tmp_path / "weights.safetensors")
    check_saved(network, tmp_path / "weights.safetensors")
    save_file({**state, f"{name}.alpha": np.float32(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"--network_alpha: .*has alpha 3 at lora_unet_mid_block.*this run 1.5"):
        check_saved(network, tmp_path / "other.safetensors")


@pytest.mark.parametrize("options", [Options(), Options(tucker=True, dora=True)])
def test_half_precision_leaves_adapters_as_they_are(options: Options) -> None:
    """AMP O2: what `paddle.amp.decorate` does to models, which on a CPU it leaves out."""
    step = paddle.nn.Layer()
    step.unet = tiny_unet()
    targets = find_targets({"unet": step.unet}, wanted("full"))
    step.adapter = AdapterNetwork(new_adapters(targets, "lora", options, Dropout(), 0))
    importlib.import_module("paddle.amp.auto_cast").amp_initialize([step], "bfloat16", None)
    dtypes = {name: {p.dtype for p in getattr(step, name).parameters()} for name in ("unet", "adapter")}
    assert dtypes == {"unet": {paddle.bfloat16}, "adapter": {paddle.float32}}
