from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppsd.models.bundle import load_bundle
from ppsd.models.loading import read_metadata
from ppsd.models.unet_init import random_unet
from tests.tiny import UNET_CONFIG, tiny_pipeline, tiny_pipeline_dir, tiny_text_encoder, tiny_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "pipeline"))


def unet_json(path: Path, **changes: object) -> str:
    path.write_text(json.dumps({**UNET_CONFIG, **changes}), encoding="utf-8")
    return str(path)


def test_loads_what_was_saved(folder: Path) -> None:
    bundle = load_bundle(str(folder))
    for name, value in tiny_pipeline().unet.state_dict().items():
        np.testing.assert_array_equal(bundle.unet.state_dict()[name].numpy(), value.numpy())
    assert bundle.scheduler_config["beta_end"] == 0.012
    assert bundle.vae_scale_factor == 8


def test_a_component_flag_overrides_the_pipeline(folder: Path, tmp_path: Path) -> None:
    tiny_vae(seed=9).save_pretrained(str(tmp_path / "vae"))
    tiny_text_encoder(seed=9).save_pretrained(str(tmp_path / "text"), safe_serialization=True)
    bundle = load_bundle(str(folder), vae=str(tmp_path / "vae"), text_encoder=str(tmp_path / "text"))
    wanted = tiny_vae(seed=9).encoder.conv_in.weight.numpy()
    np.testing.assert_array_equal(bundle.vae.encoder.conv_in.weight.numpy(), wanted)
    embedding = tiny_text_encoder(seed=9).state_dict()
    for name, value in bundle.text_encoder.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), embedding[name].numpy())


def test_a_torch_layout_folder_loads(own: Path) -> None:
    unet = tiny_pipeline().unet
    shutil.rmtree(own / "unet")
    unet.save_pretrained(str(own / "unet"), to_diffusers=True)
    loaded = load_bundle(str(own)).unet
    for name, value in unet.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), value.numpy())


def test_json_means_random_weights_that_start_as_zero_output(folder: Path, tmp_path: Path) -> None:
    config = unet_json(tmp_path / "unet.json")
    paddle.seed(1)
    unet = load_bundle(str(folder), unet=config).unet
    noise = paddle.randn([2, 4, 8, 8])
    out = unet(noise, paddle.to_tensor([3, 900]), encoder_hidden_states=paddle.randn([2, 77, 16])).sample
    assert float(out.abs().max()) == 0.0
    down = unet.down_blocks[0].resnets[0]
    assert float(down.conv2.weight.abs().max()) == 0.0
    assert float(unet.down_blocks[0].attentions[0].proj_out.weight.abs().max()) == 0.0
    bound = (1 / (down.conv1.weight.shape[1] * 9)) ** 0.5
    largest = float(down.conv1.weight.abs().max())
    assert 0.9 * bound < largest <= bound


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    config = unet_json(tmp_path / "unet.json")

    def weight(seed: int) -> np.ndarray:
        paddle.seed(seed)
        return random_unet(config).conv_in.weight.numpy()

    np.testing.assert_array_equal(weight(1), weight(1))
    assert np.abs(weight(1) - weight(2)).max() > 0.01


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not JSON"), ("[]", "not a UNet config"), (None, "there is no file")]
)
def test_a_wrong_json_is_named(folder: Path, tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "unet.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_bundle(str(folder), unet=str(file))
    assert str(file) in str(caught.value)


def test_a_missing_folder_is_never_a_random_model(own: Path) -> None:
    shutil.rmtree(own / "unet")
    with pytest.raises(ValueError, match=r"--pretrained_model_name_or_path: .*unet is not a folder"):
        load_bundle(str(own))


def test_a_folder_without_weights_is_named(own: Path) -> None:
    for file in (own / "vae").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match=r"cannot load AutoencoderKL"):
        load_bundle(str(own))


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_missing_weight_is_an_error(own: Path, part: str) -> None:
    """The stack would leave it random with a warning."""
    from safetensors.numpy import load_file, save_file

    file = next((own / part).glob("*.safetensors"))
    state = load_file(str(file))
    metadata = read_metadata(file)
    dropped = sorted(state)[0]
    del state[dropped]
    save_file(state, str(file), metadata=metadata)
    with pytest.raises(ValueError, match=r"lacks 1 weights"):
        load_bundle(str(own))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_missing_weight_in_a_pdparams_file_is_an_error(own: Path, part: str) -> None:
    layer = getattr(tiny_pipeline(), part)
    next((own / part).glob("*.safetensors")).unlink()
    state = dict(layer.state_dict())
    paddle.save(state, str(own / part / "model_state.pdparams"))
    load_bundle(str(own))
    del state[sorted(state)[0]]
    paddle.save(state, str(own / part / "model_state.pdparams"))
    with pytest.raises(ValueError, match=r"lacks 1 weights"):
        load_bundle(str(own))


def test_truncated_weights_are_an_error(own: Path) -> None:
    file = next((own / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="safetensors"):
        load_bundle(str(own))


def test_a_scheduler_folder_that_is_missing_is_named(own: Path) -> None:
    shutil.rmtree(own / "scheduler")
    with pytest.raises(ValueError, match=r"cannot read the noise schedule from .*scheduler_config.json"):
        load_bundle(str(own))


def test_components_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"16 features and the UNet's cross_attention_dim is 24"):
        load_bundle(str(folder), unet=unet_json(tmp_path / "a.json", cross_attention_dim=24))
    with pytest.raises(ValueError, match=r"4 latent channels and the UNet's in_channels is 9"):
        load_bundle(str(folder), unet=unet_json(tmp_path / "b.json", in_channels=9))
    with pytest.raises(ValueError, match="--model_max_length is 100"):
        load_bundle(str(folder), model_max_length=100)
