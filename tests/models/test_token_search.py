"""Sentences from next-word probabilities, against plain loops, exhaustive search and counted frequencies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from ppsd.models.token_search import Limits, beam_search, greedy, log_softmax, nucleus, sampled

WORDS, END = 6, 2


class Chain:
    """A ppsd.models.token_search.Writer: logits depend on the image and on all tokens so far."""

    def __init__(self, images: int, seed: int = 0, scale: float = 2) -> None:
        self.tables = np.random.default_rng(seed).normal(0, scale, (images, 4, WORDS, WORDS)).astype(np.float32)
        self.sentences: list[tuple[int, ...]] = []

    def logits(self, image: int, sentence: Sequence[int]) -> np.ndarray:
        return sum(self.tables[image, back % 4, token] for back, token in enumerate(reversed(sentence)))  # type: ignore[return-value]

    def begin(self, prompt: Sequence[int]) -> np.ndarray:
        self.sentences = [tuple(prompt)] * len(self.tables)
        return self._all()

    def go_on(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        self.sentences = [(*self.sentences[row], int(token)) for row, token in zip(rows, tokens)]
        return self._all()

    def _all(self) -> np.ndarray:
        width = len(self.sentences) // len(self.tables)
        return np.stack([self.logits(row // width, sentence) for row, sentence in enumerate(self.sentences)])


def plain_greedy(chain: Chain, image: int, prompt: Sequence[int], limits: Limits) -> list[int]:
    sentence = list(prompt)
    while len(sentence) < limits.max_length:
        logits = chain.logits(image, sentence).copy()
        if len(sentence) < limits.min_length:
            logits[END] = -np.inf
        if int(logits.argmax()) == END:
            break
        sentence.append(int(logits.argmax()))
    return sentence[len(prompt) :]


@pytest.mark.parametrize("prompt", [[0], [0, 4, 5]])
@pytest.mark.parametrize("min_length", [0, 5])
def test_greedy_takes_the_likeliest_each_time(prompt: list[int], min_length: int) -> None:
    chain, limits = Chain(20), Limits(END, 9, min_length)
    found = greedy(chain, prompt, limits)
    assert found == [plain_greedy(chain, image, prompt, limits) for image in range(20)]
    lengths = {len(prompt) + len(sentence) for sentence in found}
    assert max(lengths) == 9
    assert min(lengths) == max(min_length, len(prompt))


def best_of_all(chain: Chain, image: int, limits: Limits) -> list[int]:
    """Of every sentence that there is, by the mean log probability of its tokens."""
    scores: dict[tuple[int, ...], float] = {}
    words = [word for word in range(WORDS) if word != END]
    steps = limits.max_length - 1
    for length in range(steps + 1):
        for sentence in itertools.product(words, repeat=length):
            total, so_far = 0.0, [0]
            for token in [*sentence, *([END] if length < steps else [])]:
                chances = log_softmax(chain.logits(image, so_far)[None])[0]
                total += float(chances[token]) if token != END or len(so_far) >= limits.min_length else -np.inf
                so_far.append(token)
            scores[sentence] = total / (len(so_far) - 1)
    return list(max(scores, key=scores.__getitem__))


@pytest.mark.parametrize("min_length", [0, 3])
def test_enough_beams_find_the_best_of_all_sentences(min_length: int) -> None:
    chain, limits = Chain(12, seed=5, scale=0.7), Limits(END, 4, min_length)
    found = beam_search(chain, [0], limits, 150)
    assert found == [best_of_all(chain, image, limits) for image in range(12)]
    assert found != greedy(chain, [0], limits)


def test_beams_of_an_image_do_not_depend_on_the_others() -> None:
    chain, limits = Chain(6, seed=1), Limits(END, 12)
    together = beam_search(chain, [0, 3], limits, 3)
    for image in range(6):
        alone = Chain(6, seed=1)
        alone.tables = alone.tables[image : image + 1]
        assert beam_search(alone, [0, 3], limits, 3) == [together[image]]
    assert beam_search(chain, [0, 3], limits, 1) == greedy(chain, [0, 3], limits)


def test_the_nucleus_is_the_smallest_set_with_top_p_together() -> None:
    probabilities = np.array([0.05, 0.4, 0.1, 0.15, 0.3])
    count = 20_000
    chance = (np.arange(count) + 0.5) / count
    for top_p, expected in ((1.0, probabilities), (0.8, [0, 0.4, 0, 0.15, 0.3]), (0.3, [0, 1, 0, 0, 0])):
        found = nucleus(np.tile(np.log(probabilities), (count, 1)), top_p, chance)
        shares = np.bincount(found, minlength=5) / count
        np.testing.assert_allclose(shares, np.array(expected) / np.sum(expected), atol=1e-4)


def test_chance_is_asked_once_a_step_and_decides() -> None:
    asked: list[int] = []

    def never(step: int) -> np.ndarray:
        asked.append(step)
        return np.zeros(5)

    chain, limits = Chain(5, seed=4), Limits(END, 7)
    assert sampled(chain, [0], limits, 0.9, never) == greedy(chain, [0], limits)  # 0 is the likeliest
    assert asked == list(range(6))
    rng = np.random.default_rng(0)
    draws = [sampled(chain, [0], limits, 0.99, lambda step: rng.random(5)) for _ in range(3)]
    assert draws[0] != draws[1] != draws[2]
