"""LoRA files on a pipeline's models: with weights, several at once, switched, fused, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppsd import compat  # isort: skip  before paddle

import paddle
from safetensors.numpy import load_file, save_file

from ppsd.adapters.attach import attached
from ppsd.adapters.base import ALPHA, Dropout, Options
from ppsd.adapters.network import new_adapters
from ppsd.adapters.targets import Wanted, find_targets
from ppsd.interop.lora.attaching import LoraSwitch, parse_weighted
from ppsd.interop.lora.lora_file import LoraFile
from ppsd.interop.lora.writing import write_lora
from tests.tiny import tiny_text_encoder, tiny_unet

compat.apply()

LATENTS = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
STATES = np.random.default_rng(1).standard_normal((2, 77, 16)).astype(np.float32)


def unet_output(unet: paddle.nn.Layer) -> np.ndarray:
    with paddle.no_grad():
        given = (paddle.to_tensor(LATENTS), paddle.to_tensor([3, 700]), paddle.to_tensor(STATES))
        return np.asarray(unet(*given).sample.numpy())


def write_file(path: Path, seed: int, preset: str = "full", **options: bool) -> Path:
    """Random factors, none of them 0, for all that the preset takes of the tiny networks."""
    models = {"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}
    targets = find_targets(models, Wanted(3, 2.0, 2, 1.0, preset))
    adapters = new_adapters(targets, "lora", Options(**options), Dropout(), seed)
    random = np.random.default_rng(seed)
    layers = {}
    for place, adapter in adapters.items():
        values = adapter.factors()
        layers[place] = {
            name: value if name == ALPHA else value + 0.1 * random.standard_normal(value.shape).astype(np.float32)
            for name, value in values.items()
        }
    write_lora(path, LoraFile(layers))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("loras")
    return [
        write_file(folder / "one.safetensors", 1),
        write_file(folder / "two.safetensors", 2, "attn-mlp"),
        write_file(folder / "dora.safetensors", 3, dora=True),
    ]


def merged(unet: paddle.nn.Layer, weights: dict[Path, float]) -> None:
    """By numpy alone: W + sum of weight * alpha / rank * up @ down."""
    layers = dict(unet.named_sublayers())
    for file, weight in weights.items():
        tensors = load_file(file)
        for name, layer in layers.items():
            key = f"lora_unet_{name.replace('.', '_')}"
            if f"{key}.alpha" not in tensors:
                continue
            up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
            change = up.reshape(len(up), -1) @ down.reshape(len(down), -1) * float(tensors[f"{key}.alpha"]) / len(down)
            change = change.T if layer.weight.ndim == 2 else change.reshape(layer.weight.shape)
            layer.weight.set_value(layer.weight.numpy() + weight * change)


@pytest.mark.parametrize("fuse", [False, True], ids=["beside", "fused"])
def test_several_files_add_up(files: list[Path], fuse: bool) -> None:
    unet, plain = tiny_unet(), tiny_unet()
    switch = LoraSwitch({"unet": unet, "text_encoder": tiny_text_encoder()})
    switch.use([(str(files[0]), 0.7), (str(files[1]), -1.5)], fuse=fuse)
    merged(plain, {files[0]: 0.7, files[1]: -1.5})
    expected = unet_output(plain)
    assert np.abs(expected - unet_output(tiny_unet())).max() > 0.05
    np.testing.assert_allclose(unet_output(unet), expected, atol=1e-5)


@pytest.mark.parametrize("fuse", [False, True], ids=["beside", "fused"])
def test_switching_leaves_nothing_behind(files: list[Path], fuse: bool) -> None:
    unet = tiny_unet()
    names, begun = set(unet.state_dict()), unet_output(unet)
    switch = LoraSwitch({"unet": unet, "text_encoder": tiny_text_encoder()})
    switch.use([(str(files[0]), 1.0)], fuse=fuse)
    first = unet_output(unet)
    switch.use([(str(files[2]), 1.0)], fuse=fuse)
    assert np.abs(unet_output(unet) - first).max() > 0.01
    switch.use([(str(files[0]), 1.0)], fuse=fuse)
    np.testing.assert_array_equal(unet_output(unet), first)
    assert set(unet.state_dict()) == names
    switch.use([])
    np.testing.assert_array_equal(unet_output(unet), begun)
    assert attached(unet.conv_in) is None


def test_fused_is_the_same_with_dora_and_weights(files: list[Path]) -> None:
    outputs = []
    for fuse in (False, True):
        unet = tiny_unet()
        switch = LoraSwitch({"unet": unet, "text_encoder": tiny_text_encoder()})
        switch.use([(str(files[2]), 0.5), (str(files[1]), 0.8)], fuse=fuse)
        outputs.append(unet_output(unet))
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_the_text_encoders_part(files: list[Path]) -> None:
    text_encoder = tiny_text_encoder()
    ids = paddle.to_tensor([[5, 6, 7]])
    before = text_encoder(ids)[0].numpy()
    LoraSwitch({"unet": tiny_unet(), "text_encoder": text_encoder}).use([(str(files[1]), 1.0)])
    assert np.abs(text_encoder(ids)[0].numpy() - before).max() > 0.01


def test_a_file_is_read_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    switch = LoraSwitch({"unet": tiny_unet(), "text_encoder": tiny_text_encoder()})
    assert switch.load(files[0]) is switch.load(str(files[0]))


def test_another_models_file_is_refused(files: list[Path]) -> None:
    wide = {"unet": tiny_unet(cross_attention_dim=24), "text_encoder": tiny_text_encoder()}
    with pytest.raises(
        ValueError, match=r"two.safetensors does not fit this model, in 8 of .* made for another"
    ) as said:
        LoraSwitch(wide).load(files[1])
    assert "attn2.to_k: factors are for a weight of [8, 16], and this layer's is [8, 24]" in str(said.value)


def test_layers_that_are_not_there_are_named(files: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"12 of its .* layers are not in this model, e.g. text_encoder.text_model"):
        LoraSwitch({"unet": tiny_unet()}).load(files[0])


def test_values_that_are_no_numbers_are_refused(files: list[Path], tmp_path: Path) -> None:
    tensors = load_file(files[0])
    tensors["lora_unet_conv_in.lora_up.weight"][0] = np.nan
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"broken.safetensors: .*unet.conv_in lora_up.weight"):
        LoraSwitch({"unet": tiny_unet(), "text_encoder": tiny_text_encoder()}).load(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.safetensors", ("a/b.safetensors", 1.0)),
        ("a/b.safetensors:0.5", ("a/b.safetensors", 0.5)),
        ("b.safetensors:-1", ("b.safetensors", -1.0)),
        ("C:/b.safetensors", ("C:/b.safetensors", 1.0)),
    ],
)
def test_weights_on_the_command_line(text: str, expected: tuple[str, float]) -> None:
    assert parse_weighted(text) == expected


def test_a_weight_that_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"--lora a.safetensors:inf"):
        parse_weighted("a.safetensors:inf")
