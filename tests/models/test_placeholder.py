"""New tokens beside a text encoder's table."""

from __future__ import annotations

from typing import Any

import ppsd.compat  # noqa: F401  before paddle

import numpy as np
import paddle
import pytest

from ppsd.models.bundle import Bundle
from ppsd.models.placeholder import Placeholder, add_placeholders, add_rows, check_token
from tests.tiny import SCHEDULER_CONFIG, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

ROWS = {"<a>": np.full((2, 16), 0.5, np.float32), "<b>": np.full((1, 16), -0.25, np.float32)}


def bundle() -> Bundle:
    return Bundle(tiny_vae(), tiny_text_encoder(), tiny_tokenizer(), tiny_unet(), SCHEDULER_CONFIG)


def table(layer: Any) -> Any:
    return layer.text_model.embeddings.token_embedding


def test_new_ids_are_new_rows_and_old_ids_are_as_before() -> None:
    encoder, tokenizer = tiny_text_encoder(), tiny_tokenizer()
    names, old = list(encoder.state_dict()), table(encoder).weight.numpy()
    first = len(tokenizer)
    add_rows(tokenizer, encoder, ROWS)
    ids = paddle.to_tensor([[0, first, 3, first + 2], [first + 1, 1, 2, first - 1]])
    found = table(encoder)(ids).numpy()
    expected = np.concatenate([old, *ROWS.values()])[ids.numpy()]
    np.testing.assert_array_equal(found, expected)
    assert list(encoder.state_dict()) == names
    assert table(encoder).weight.shape == list(old.shape)
    whole = table(encoder).extended(paddle.to_tensor(np.concatenate(list(ROWS.values()))))
    np.testing.assert_array_equal(whole.numpy(), np.concatenate([old, *ROWS.values()]))


def test_tokens_may_be_added_twice_and_where_the_table_has_rows_to_spare() -> None:
    encoder, tokenizer = tiny_text_encoder(vocab_size=600), tiny_tokenizer()
    old, first = table(encoder).weight.numpy(), len(tokenizer)
    assert first < 597
    for token, values in ROWS.items():
        add_rows(tokenizer, encoder, {token: values})
    found = table(encoder)(paddle.to_tensor([[first - 1, first, first + 1, first + 2]])).numpy()[0]
    np.testing.assert_array_equal(found, [old[first - 1], ROWS["<a>"][0], ROWS["<a>"][1], ROWS["<b>"][0]])
    encoder = tiny_text_encoder(vocab_size=600)
    add_rows(tiny_tokenizer(), encoder, ROWS)
    whole = table(encoder).extended(paddle.to_tensor(np.concatenate(list(ROWS.values())))).numpy()
    assert whole.shape == old.shape
    np.testing.assert_array_equal(whole[first + 3 :], old[first + 3 :])
    np.testing.assert_array_equal(whole[first : first + 2], ROWS["<a>"])


@pytest.mark.parametrize("trained", [False, True])
def test_gradients_are_of_the_rows_and_of_the_table_only_where_it_is_trained(trained: bool) -> None:
    encoder, tokenizer = tiny_text_encoder(), tiny_tokenizer()
    for parameter in encoder.parameters():
        parameter.stop_gradient = not trained
    first = len(tokenizer)
    added = add_rows(tokenizer, encoder, ROWS)
    table(encoder)(paddle.to_tensor([[5, first, first, 5, 7]])).sum().backward()
    gradients = {name: p.grad.numpy()[:, 0].tolist() for name, p in added.named_parameters()}
    assert gradients == {"<a>": [2.0, 0.0], "<b>": [0.0]}
    old = table(encoder).weight.grad
    assert (old is not None) == trained
    if trained:
        assert {int(i): float(old[int(i), 0]) for i in np.flatnonzero(old.numpy().any(1))} == {5: 2.0, 7: 1.0}


def test_rows_begin_as_the_initializers_tokens_in_turn_or_random() -> None:
    made = bundle()
    old, tokenizer = table(made.text_encoder).weight.numpy(), tiny_tokenizer()
    red, circle = tokenizer("red circle")["input_ids"][1:-1]
    tokens = [Placeholder("<a>", 3, "red circle"), Placeholder("<b>", 2, "red"), Placeholder("<c>", 2)]
    add_placeholders(made, tokens, seed=3)
    rows = {name: p.numpy() for name, p in made.embeddings.named_parameters()}
    np.testing.assert_array_equal(rows["<a>"], old[[red, circle, red]])
    np.testing.assert_array_equal(rows["<b>"], old[[red, red]])
    assert 0.5 < rows["<c>"].std() / old.std() < 2
    again = bundle()
    add_placeholders(again, tokens, seed=3)
    np.testing.assert_array_equal(dict(again.embeddings.named_parameters())["<c>"].numpy(), rows["<c>"])
    other = bundle()
    add_placeholders(other, tokens, seed=4)
    assert not np.array_equal(dict(other.embeddings.named_parameters())["<c>"].numpy(), rows["<c>"])


def test_what_does_not_fit_is_refused() -> None:
    encoder, tokenizer = tiny_text_encoder(), tiny_tokenizer()
    with pytest.raises(ValueError, match=r"file: the embedding of <a> is \[2, 8\].* \[vectors, 16\]"):
        add_rows(tokenizer, encoder, {"<a>": np.zeros((2, 8), np.float32)}, "file")
    for known in ("red", "<|endoftext|>", "a"):
        with pytest.raises(ValueError, match=r"file: the tokenizer knows .* already"):
            add_rows(tokenizer, encoder, {known: np.zeros((1, 16), np.float32)}, "file")
    for token in ("", "a toy", "a,b", "v1.5", "config", "forward"):
        with pytest.raises(ValueError, match="--placeholder_token"):
            check_token(token)
    check_token("<my-toy>")
