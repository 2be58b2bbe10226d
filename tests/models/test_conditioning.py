"""Hidden states of skipped layers and of chunks: those of torch and of a plain formula."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from ppdiffusers.transformers import CLIPTextModel
from safetensors import safe_open

from ppsd.data.tokens import TokenizeCaptions
from ppsd.models.conditioning import Conditioning, freeze_skipped, hidden_states, join_chunks
from tests.data.test_data_chunks import FIXTURE, tokenizer_of
from tests.tiny import tiny_text_encoder


def load() -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(str(FIXTURE / "text_encoder"), from_diffusers=True)


def test_states_are_those_of_torch() -> None:
    """Of 8 cases: two ways of padding, one to three chunks, one to three layers from the end."""
    text_encoder = load()
    with safe_open(str(FIXTURE / "expected.safetensors"), "np") as file:
        captions = json.loads(file.metadata()["captions"])["hidden"]
        cases = {name: file.get_tensor(name) for name in file.keys() if name.startswith("hidden.")}  # noqa: SIM118
    assert len(cases) == 8
    for name, expected in cases.items():
        _, version, length, clip_skip = name.split(".")
        chunks = int(length) // 75
        tokenize = TokenizeCaptions(tokenizer_of(version), 77, chunks)
        condition = Conditioning(text_encoder, False, int(clip_skip), chunks)
        hidden = condition(paddle.to_tensor(np.stack([tokenize(caption) for caption in captions]))).hidden
        assert hidden.shape == [3, 75 * chunks + 2, 8]
        np.testing.assert_allclose(hidden.numpy(), expected, rtol=1e-5, atol=2e-6, err_msg=name)


def test_skipping_a_layer_is_a_network_without_it() -> None:
    whole, shorter = load(), load()
    shorter.text_model.encoder.layers = shorter.text_model.encoder.layers[:-1]
    ids = paddle.to_tensor(np.arange(14).reshape(2, 7))
    for layer in (whole, shorter):
        layer.eval()
    np.testing.assert_array_equal(hidden_states(whole, ids, 2).numpy(), shorter(ids)[0].numpy())
    np.testing.assert_array_equal(hidden_states(whole, ids, 1).numpy(), whole(ids)[0].numpy())
    np.testing.assert_array_equal(Conditioning(whole, False)(ids).hidden.numpy(), whole(ids)[0].numpy())
    assert np.abs(hidden_states(whole, ids, 2).numpy() - whole(ids)[0].numpy()).max() > 0.1


def test_joined_chunks_by_hand() -> None:
    states = np.arange(2 * 3 * 4 * 2, dtype="float32").reshape(6, 4, 2)  # B 2, three chunks of four
    joined = join_chunks(paddle.to_tensor(states), 3).numpy()
    a, b, c = states[3:]
    np.testing.assert_array_equal(joined[1], [a[0], a[1], a[2], b[1], b[2], c[1], c[2], c[3]])
    assert joined.shape == (2, 8, 2)


def test_a_chunk_is_read_by_itself() -> None:
    """Another second chunk changes the states of the first by nothing."""
    condition = Conditioning(tiny_text_encoder(), False, 2, 2)
    ids = np.random.default_rng(0).integers(0, 100, (2, 2 * 77))
    ids[1, :77] = ids[0, :77]
    hidden = condition(paddle.to_tensor(ids)).hidden.numpy()
    np.testing.assert_allclose(hidden[0, :76], hidden[1, :76], atol=1e-6)
    assert np.abs(hidden[0, 76:] - hidden[1, 76:]).max() > 0.1


def test_skipped_layers_get_no_gradient_and_are_frozen() -> None:
    text_encoder = load()
    ids = paddle.to_tensor(np.arange(2 * 14).reshape(2, 14) % 20)
    Conditioning(text_encoder, True, 2, 2)(ids).hidden.sum().backward()
    without = {name for name, parameter in text_encoder.named_parameters() if parameter.grad is None}
    freeze_skipped(text_encoder, 2)
    frozen = {name for name, parameter in text_encoder.named_parameters() if parameter.stop_gradient}
    assert frozen == without
    assert {name.split(".")[3] for name in frozen} == {"2"}
    freeze_skipped(load(), None)


@pytest.mark.parametrize("clip_skip", [0, 4, -1])
def test_there_must_be_such_a_layer(clip_skip: int) -> None:
    with pytest.raises(ValueError, match=f"--clip_skip is {clip_skip}; the text encoder has 3 layers"):
        Conditioning(load(), False, clip_skip)
