"""Folders of Paddle as folders of diffusers, as far as it shows without diffusers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ppsd import compat  # isort: skip  before paddle

import paddle
from ppdiffusers import ControlNetModel
from ppdiffusers.transformers import CLIPTextConfig, CLIPTextModelWithProjection

from ppsd.formats.safetensors_file import SafetensorsFile, Spec, write_safetensors
from ppsd.interop.diffusers import write_diffusers
from ppsd.interop.weights import convert_weights, is_linear
from ppsd.models.bundle import load_bundle
from tests.tiny import (
    TEXT_CONFIG,
    UNET_CONFIG,
    tiny_pipeline_dir,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)

compat.apply()

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("pipeline"))


def models() -> list[paddle.nn.Layer]:
    control = {key: value for key, value in UNET_CONFIG.items() if key not in ("sample_size", "up_block_types")}
    del control["out_channels"]
    return [
        tiny_unet(use_linear_projection=True),
        tiny_unet(num_class_embeds=5),  # a table
        tiny_unet(class_embed_type="projection", projection_class_embeddings_input_dim=3),  # two Linear layers
        tiny_unet(addition_embed_type="text_time", addition_time_embed_dim=2, projection_class_embeddings_input_dim=16),
        tiny_vae(),
        tiny_text_encoder(),
        CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_CONFIG, vocab_size=60)),
        ControlNetModel(**control, conditioning_embedding_out_channels=(4, 4, 4, 4)),
    ]


def test_linear_layers_are_known_by_name():
    for model in models():
        linear = {f"{name}.weight" for name, sub in model.named_sublayers() if isinstance(sub, paddle.nn.Linear)}
        found = {name for name, value in model.state_dict().items() if is_linear(name, tuple(value.shape))}
        assert found == linear, type(model).__name__
        assert linear


def test_converted_pipeline_is_the_same_to_ppsd(pipeline, tmp_path):
    """Which reads torch's layout, too."""
    written = write_diffusers(pipeline, tmp_path / "new")
    assert sorted(str(file.relative_to(tmp_path / "new")) for file in written) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert all(file.stat().st_size == digest.nbytes for file, digest in written.items())
    old, new = load_bundle(str(pipeline)), load_bundle(str(tmp_path / "new"))
    for part in ("unet", "vae", "text_encoder"):
        one, other = getattr(old, part).state_dict(), getattr(new, part).state_dict()
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value.numpy(), other[name].numpy(), err_msg=name)
    assert old.tokenizer("a red circle").input_ids == new.tokenizer("a red circle").input_ids
    assert new.tokenizer.model_max_length == 77


def test_weights_are_transposed_and_named_as_torch_has_them(pipeline, tmp_path):
    write_diffusers(pipeline, tmp_path)
    name = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"
    old = load_file(pipeline / "unet" / "diffusion_paddle_model.safetensors")
    new = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert new[name].shape == (128, 16)
    np.testing.assert_array_equal(new[name], old[name].T)
    np.testing.assert_array_equal(new["conv_in.weight"], old["conv_in.weight"])
    assert SafetensorsFile(tmp_path / "text_encoder" / "model.safetensors").metadata["format"] == "pt"
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    assert "ppdiffusers" not in json.dumps(index)


def test_averaged_weights_of_a_checkpoint_come_along(tmp_path):
    unet = tmp_path / "unet"
    tiny_unet(0).save_pretrained(str(unet), safe_serialization=True)
    tiny_unet(1).save_pretrained(str(unet), safe_serialization=True, variant="ema")
    write_diffusers(unet, tmp_path / "new")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    plain, ema = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.ema.safetensors"
    assert names == sorted(["config.json", plain, ema])
    one, other = load_file(tmp_path / "new" / plain), load_file(tmp_path / "new" / ema)
    assert not np.array_equal(one["conv_in.weight"], other["conv_in.weight"])


def test_half_precision_halves_the_files(pipeline, tmp_path):
    whole, half = write_diffusers(pipeline, tmp_path / "whole"), write_diffusers(pipeline, tmp_path / "half", half=True)
    name = "unet/diffusion_pytorch_model.safetensors"
    one, other = load_file(tmp_path / "whole" / name), load_file(tmp_path / "half" / name)
    assert {value.dtype for value in other.values()} == {np.dtype(np.float16)}
    for key, value in one.items():
        np.testing.assert_array_equal(other[key], value.astype(np.float16))
    assert half[tmp_path / "half" / name].nbytes < 0.6 * whole[tmp_path / "whole" / name].nbytes


def test_bfloat16_is_read_as_numbers(tmp_path):
    values = np.array([[1.0, -2.5, 0.15625], [3.0, 0.0, 1e20]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    source = tmp_path / "bf16.safetensors"
    write_safetensors(source, {"a.weight": Spec("BF16", (2, 3))}, lambda _: bits)
    convert_weights(SafetensorsFile(source), tmp_path / "same.safetensors", "pt")
    kept = SafetensorsFile(tmp_path / "same.safetensors")
    assert kept.specs["a.weight"] == Spec("BF16", (3, 2))
    np.testing.assert_array_equal(kept.read("a.weight"), bits.T)
    with pytest.raises(ValueError, match=r"a.weight holds 9.97e.19, too large for float16"):
        convert_weights(SafetensorsFile(source), tmp_path / "half.safetensors", "pt", half=True)


def test_a_safety_checker_is_left_out_and_said_so(pipeline, tmp_path, caplog):
    index = json.loads((pipeline / "model_index.json").read_text(encoding="utf-8"))
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(pipeline), str(copy)], check=True)
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (copy / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    write_diffusers(copy, tmp_path / "new")
    assert "left out: safety_checker (StableDiffusionSafetyChecker)" in caplog.text
    new = json.loads((tmp_path / "new" / "model_index.json").read_text(encoding="utf-8"))
    assert new["safety_checker"] == [None, None]
    assert new["requires_safety_checker"] is False


def test_what_cannot_be_converted_is_said(pipeline, tmp_path):
    torch_folder = tmp_path / "torch"
    write_diffusers(pipeline, torch_folder)
    with pytest.raises(ValueError, match="is of diffusers, not of ppdiffusers"):
        write_diffusers(torch_folder, tmp_path / "again")
    with pytest.raises(ValueError, match=r"text_encoder/model.safetensors is torch's already"):
        write_diffusers(torch_folder / "text_encoder", tmp_path / "again")
    with pytest.raises(ValueError, match=r"config.json: cannot be read"):
        write_diffusers(tmp_path, tmp_path / "again")
    assert not (tmp_path / "again" / "model_index.json").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no diffusion_paddle_model.safetensors"):
        write_diffusers(tmp_path / "empty", tmp_path / "again")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "empty" / "diffusion_paddle_model.safetensors")
    config = {"_class_name": "AutoencoderKL", "up_block_out_channels": [8, 8]}
    (tmp_path / "empty" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="up_block_out_channels"):
        write_diffusers(tmp_path / "empty", tmp_path / "again")


def test_a_tokenizer_without_its_padding_token_is_refused(tmp_path, pipeline):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(pipeline), str(copy)], check=True)
    tiny_tokenizer(pad_token="<nowhere>").save_pretrained(str(copy / "tokenizer"))
    (copy / "tokenizer" / "added_tokens.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="pad_token is '<nowhere>'"):
        write_diffusers(copy, tmp_path / "new")


def test_the_tool(pipeline, tmp_path):
    """It needs no Paddle, refuses a folder in use, and ends with one line where it cannot go on."""
    output = tmp_path / "new"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import sys, runpy; sys.modules['paddle'] = None; sys.argv = sys.argv[1:]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        command = [sys.executable, "-c", code, str(ROOT / "tools" / "convert_to_diffusers.py"), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(str(pipeline), str(output), "--half")
    assert done.returncode == 0, done.stderr
    assert f"diffusers folder: {output}" in done.stdout
    assert (output / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    again = run(str(pipeline), str(output))
    assert (again.returncode, again.stderr) == (
        1,
        f"convert_to_diffusers.py: error: {output} is not empty; name a new folder\n",
    )
    assert "is not a folder" in run(str(tmp_path / "nowhere"), str(tmp_path / "x")).stderr
