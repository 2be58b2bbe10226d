"""Caption -> token ids, the tokenizer's own, in bounded time and memory."""

from __future__ import annotations

import copy
from functools import lru_cache
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np

CACHED_CAPTIONS = 4096
CACHED_CAPTION_CHARACTERS = 400
CACHED_WORDS = 100_000
MAX_CAPTION_CHARACTERS = 200_000


class TokenizeCaptions:
    """Token ids int64 [L]: `tokenizer(caption, padding="max_length", truncation=True, max_length=L)`, L = max_length.

    Of a CLIP tokenizer the work on one caption is bounded: no more words are encoded than can give the first
    `max_length` tokens, and no more of a single word. A caption is cut after 200,000 characters, which is further than
    its first tokens reach. Recent captions and words are remembered, a bounded number of them.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = _bounded(tokenizer, max_length) if hasattr(tokenizer, "bpe") else tokenizer
        self._max_length = max_length
        self._remembered = lru_cache(maxsize=CACHED_CAPTIONS)(self._encode)

    def __call__(self, caption: str) -> np.ndarray:
        """The caption's ids, read-only."""
        encode = self._remembered if len(caption) <= CACHED_CAPTION_CHARACTERS else self._encode
        return encode(caption)

    def _encode(self, caption: str) -> np.ndarray:
        encoded = self._tokenizer(
            caption[:MAX_CAPTION_CHARACTERS], padding="max_length", truncation=True, max_length=self._max_length
        )
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        ids.flags.writeable = False
        return ids


def _bounded(tokenizer: Any, max_length: int) -> Any:
    """A copy of paddlenlp's CLIPTokenizer that does no work for tokens beyond the first `max_length`.

    Every word (match of the tokenizer's pattern) gives at least one token and every token has at most `longest`
    characters, so neither cut changes these tokens, unless a single word is longer than all of them together and its
    end changes how its beginning is split.
    """
    bounded = copy.copy(tokenizer)
    longest = max(map(len, tokenizer.encoder))
    bounded.re = SimpleNamespace(
        sub=tokenizer.re.sub,
        findall=lambda pattern, text: [match.group() for match in islice(pattern.finditer(text), max_length)],
    )
    bounded.bpe = _BoundedBPE(bounded, (max_length + 1) * longest)
    return bounded


class _BoundedBPE:
    """A CLIP tokenizer's `bpe` for words of any length, with a bounded memory of words."""

    def __init__(self, tokenizer: Any, max_characters: int) -> None:
        self._tokenizer = tokenizer
        self._bpe = type(tokenizer).bpe
        self._max_characters = max_characters
        self._special = {word: split for word, split in tokenizer.cache.items() if word == split}
        tokenizer.cache = dict(self._special)

    def __call__(self, word: str) -> str:
        if len(self._tokenizer.cache) >= CACHED_WORDS:
            self._tokenizer.cache = dict(self._special)
        return self._bpe(self._tokenizer, word[: self._max_characters])
