from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from ppdiffusers import UNet2DConditionModel
from ppdiffusers.transformers import CLIPTextModel

from ppsd.formats.safetensors_file import SafetensorsFile
from ppsd.models.saving import load_weights, read_weights, save_component, weights_file
from tests.tiny import tiny_text_encoder, tiny_unet


def test_bfloat16_is_written_as_numbers_not_as_bits(tmp_path: Path) -> None:
    unet = tiny_unet()
    before = {name: value.astype("bfloat16").astype("float32").numpy() for name, value in unet.state_dict().items()}
    unet.to(dtype="bfloat16")
    save_component(unet, tmp_path / "unet")
    again = UNet2DConditionModel.from_pretrained(str(tmp_path / "unet"))
    for name, value in again.state_dict().items():
        assert value.dtype == paddle.float32
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_the_stack_reads_the_text_encoder_back(tmp_path: Path) -> None:
    encoder = tiny_text_encoder(seed=3)
    save_component(encoder, tmp_path / "text")
    again = CLIPTextModel.from_pretrained(str(tmp_path / "text"))
    again.eval()
    encoder.eval()
    ids = paddle.to_tensor([[1, 2, 3]])
    np.testing.assert_array_equal(again(ids)[0].numpy(), encoder(ids)[0].numpy())


def test_weights_load_exactly_or_not_at_all(tmp_path: Path) -> None:
    save_component(tiny_unet(seed=1), tmp_path / "unet")
    other = tiny_unet(seed=2)
    file = tmp_path / "unet" / weights_file(other)
    load_weights(other, SafetensorsFile(file))
    np.testing.assert_array_equal(other.conv_in.weight.numpy(), tiny_unet(seed=1).conv_in.weight.numpy())
    with pytest.raises(ValueError, match="saved by another model"):
        load_weights(tiny_unet(block_out_channels=(8, 24)), SafetensorsFile(file))
    with pytest.raises(ValueError, match="is missing"):
        read_weights(tmp_path / "nothing.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=file.name):
        read_weights(file)
