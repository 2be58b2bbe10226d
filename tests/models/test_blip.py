"""BLIP's words, against the stack's own decoder run on whole sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import pytest

from ppsd.models.blip import BlipWriter, longest_text
from ppsd.models.token_search import Limits, beam_search, greedy, log_softmax
from tests.tiny_blip import BEGIN, END, SIDE, tiny_blip

PICTURES = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)


@paddle.no_grad()
def whole(model: object, pictures: np.ndarray, sentences: Sequence[Sequence[int]]) -> np.ndarray:
    """Logits [N,V] after each sentence, of its own picture [N,3,S,S], by paddlenlp's forward without any cache."""
    seen = model.vision_model(paddle.to_tensor(pictures))[0]  # type: ignore[attr-defined]
    decoder = model.text_decoder  # type: ignore[attr-defined]
    logits: np.ndarray = (
        decoder(paddle.to_tensor(np.array(sentences)), encoder_hidden_states=seen).logits[:, -1].numpy()
    )
    return logits


def test_logits_are_those_of_whole_sentences() -> None:
    model, random = tiny_blip(), np.random.default_rng(1)
    writer = BlipWriter(model, PICTURES)
    sentences = np.tile([BEGIN, 5, 16], (4, 1))
    np.testing.assert_allclose(writer.begin([BEGIN, 5, 16]), whole(model, PICTURES, sentences), atol=2e-5)
    for width in (3, 3, 1, 2):  # sentences of each picture that go on, from any of its last ones
        before = len(sentences) // 4
        rows = np.concatenate([image * before + random.integers(0, before, width) for image in range(4)])
        tokens = random.integers(0, len(sentences[0]) + 5, 4 * width)
        sentences = np.concatenate([sentences[rows], tokens[:, None]], axis=1)
        expected = whole(model, PICTURES.repeat(width, axis=0), sentences)
        np.testing.assert_allclose(writer.go_on(rows, tokens), expected, atol=2e-5)
    assert np.ptp(expected, axis=0).max() > 0.1, "pictures and words must matter for this to show anything"


@pytest.mark.parametrize("prompt", [[BEGIN], [BEGIN, 16, 7]])
def test_greedy_is_the_argmax_of_the_models_logits_step_by_step(prompt: list[int]) -> None:
    model = tiny_blip()
    found = greedy(BlipWriter(model, PICTURES), prompt, Limits(END, 12, 5))
    for picture, tokens in zip(PICTURES, found):
        sentence = list(prompt)
        while len(sentence) < 12:
            logits = whole(model, picture[None], [sentence])[0]
            if len(sentence) < 5:
                logits[END] = -np.inf
            if int(logits.argmax()) == END:
                break
            sentence.append(int(logits.argmax()))
        assert tokens == sentence[len(prompt) :]
    assert len({tuple(tokens) for tokens in found}) > 1


def test_beams_are_likelier_than_the_greedy_sentence() -> None:
    model, limits = tiny_blip(), Limits(END, 10, 10)  # all of one length: only the sum counts

    def total(picture: np.ndarray, tokens: list[int]) -> float:
        sentence, found = [BEGIN], 0.0
        for token in tokens:
            found += float(log_softmax(whole(model, picture[None], [sentence]))[0, token])
            sentence.append(token)
        return found

    plain = greedy(BlipWriter(model, PICTURES), [BEGIN], limits)
    beams = beam_search(BlipWriter(model, PICTURES), [BEGIN], limits, 4)
    gains = [total(p, new) - total(p, old) for p, new, old in zip(PICTURES, beams, plain)]
    assert min(gains) > -1e-4
    assert max(gains) > 0.01


def test_longest_text_is_that_of_the_position_table() -> None:
    assert longest_text(tiny_blip()) == 24
