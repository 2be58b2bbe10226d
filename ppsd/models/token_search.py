"""Sentences from a model that says how likely each word is next: greedily, by beams, or by chance.

The stack's own (paddlenlp 2.8.1, BLIP's `generate`) fails with beams, and its sampling takes one stream of random
numbers for all sentences, so that each depends on the others. Lengths are those of transformers and of BLIP: in tokens,
with those that the sentence begins with, and the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, Protocol

import numpy as np

Chance = Callable[[int], np.ndarray]


class Writer(Protocol):
    """Says the logits [N,V] of the next token of N unfinished sentences, those of one image side by side."""

    def begin(self, prompt: Sequence[int]) -> np.ndarray:
        """One sentence an image, with these tokens."""

    def go_on(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Sentences rows[n] of the last ones, each with the token tokens[n] more; as many of every image."""


@dataclass(frozen=True)
class Limits:
    """When a sentence ends. end: the token that says so; before it, no sentence is shorter than min_length."""

    end: int
    max_length: int
    min_length: int = 0


def greedy(writer: Writer, prompt: Sequence[int], limits: Limits) -> list[list[int]]:
    """The likeliest token each time. The tokens after the prompt, for each image, without the end."""
    return _one_each(writer, prompt, limits, lambda logits, step: logits.argmax(axis=1))


def sampled(writer: Writer, prompt: Sequence[int], limits: Limits, top_p: float, chance: Chance) -> list[list[int]]:
    """By chance among the likeliest tokens that have a probability of top_p together (arXiv 1904.09751, section 3.1).

    chance(step) -> [B], numbers in [0, 1).
    """
    return _one_each(writer, prompt, limits, lambda logits, step: nucleus(logits, top_p, chance(step)))


def nucleus(logits: np.ndarray, top_p: float, chance: np.ndarray) -> np.ndarray:
    """One token of each row of logits [N,V], chosen by chance [N] -> [N]."""
    order = np.argsort(-logits, axis=1, kind="stable")
    probabilities = np.exp(log_softmax(np.take_along_axis(logits, order, axis=1)))
    total = probabilities.cumsum(axis=1)
    kept = np.where(total - probabilities < top_p, probabilities, 0.0).cumsum(axis=1)
    place = (kept <= chance[:, None] * kept[:, -1:]).sum(axis=1)
    return order[np.arange(len(order)), place]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row, float64 [N,V]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _one_each(
    writer: Writer, prompt: Sequence[int], limits: Limits, choose: Callable[[np.ndarray, int], np.ndarray]
) -> list[list[int]]:
    logits = writer.begin(prompt)
    rows = np.arange(len(logits))
    sentences: list[list[int]] = [[] for _ in rows]
    open_ones = np.ones(len(rows), bool)
    for length in range(len(prompt), limits.max_length):
        tokens = choose(_allowed(logits, length, limits), length - len(prompt))
        open_ones &= tokens != limits.end
        for row in np.flatnonzero(open_ones):
            sentences[row].append(int(tokens[row]))
        if not open_ones.any() or length + 1 == limits.max_length:
            break
        logits = writer.go_on(rows, tokens)
    return sentences


def _allowed(logits: np.ndarray, length: int, limits: Limits) -> np.ndarray:
    """Without the end, as long as the sentence is too short."""
    if length < limits.min_length:
        logits = logits.copy()
        logits[:, limits.end] = -np.inf
    return logits


@dataclass
class Beams:
    """The best sentences of one image: K that go on, with the sums of their log probabilities, and K at most that end.

    The score of one that ends is the sum over the number of its tokens, the end among them.
    """

    sentences: list[list[int]]
    sums: np.ndarray
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def end(self, total: float, count: int, sentence: list[int], size: int) -> None:
        self.ended = sorted([*self.ended, (total / count, sentence)], key=lambda pair: -pair[0])[:size]


def beam_search(writer: Writer, prompt: Sequence[int], limits: Limits, num_beams: int) -> list[list[int]]:
    """The best sentence of each image that K beams find, as transformers finds it with its usual settings."""
    logits = writer.begin(prompt)
    images = [Beams([[]], np.zeros(1)) for _ in logits]
    for length in range(len(prompt), limits.max_length):
        scores = _allowed(log_softmax(logits), length, limits)
        count, width = length + 1 - len(prompt), len(scores) // len(images)
        rows, tokens = [], []
        for number, beams in enumerate(images):
            parents, words = _advance(beams, scores[number * width : (number + 1) * width], limits, count, num_beams)
            rows.append(number * width + parents)
            tokens.append(words)
        if all(beams.done for beams in images) or length + 1 == limits.max_length:
            break
        logits = writer.go_on(np.concatenate(rows), np.concatenate(tokens))
    for beams in images:
        for total, sentence in zip(beams.sums, beams.sentences) if not beams.done else ():
            beams.end(total, len(sentence), sentence, num_beams)
    return [beams.ended[0][1] for beams in images]


def _advance(
    beams: Beams, scores: np.ndarray, limits: Limits, count: int, num_beams: int
) -> tuple[np.ndarray, np.ndarray]:
    """One token more: the beams that go on, by their parents [K] and tokens [K]. scores: [beams,V]."""
    if beams.done:
        return np.zeros(num_beams, np.int64), np.full(num_beams, limits.end)
    sums = (beams.sums[:, None] + scores).reshape(-1)
    best = np.argsort(-sums, kind="stable")[: 2 * num_beams]
    parents, words = np.divmod(best, scores.shape[1])
    for i in np.flatnonzero((words[:num_beams] == limits.end) & (sums[best[:num_beams]] > -np.inf)):
        beams.end(float(sums[best[i]]), count, beams.sentences[parents[i]], num_beams)
    going = np.flatnonzero(words != limits.end)[:num_beams]
    rows = np.resize(going, num_beams)  # a vocabulary may be smaller than the number of beams
    beams.sentences = [[*beams.sentences[parents[i]], int(words[i])] for i in rows]
    beams.sums = np.where(np.arange(num_beams) < len(going), sums[best[rows]], -np.inf)
    beams.done = len(beams.ended) == num_beams and beams.ended[-1][0] >= beams.sums[0] / count
    return parents[rows], words[rows]
