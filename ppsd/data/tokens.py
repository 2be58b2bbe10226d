"""Caption -> token ids, the tokenizer's own, in bounded time and memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ppsd.data.clip_words import ClipWords, is_clip

CACHED_CAPTIONS = 4096
CACHED_CAPTION_CHARACTERS = 400
MAX_CAPTION_CHARACTERS = 200_000


class TokenizeCaptions:
    """Token ids int64 [L]: `tokenizer(caption, padding="max_length", truncation=True, max_length=L)`, L = max_length.

    A caption is cut after 200,000 characters, which is further than its first tokens reach. For paddlenlp's
    CLIPTokenizer the ids come from its words (see ppsd.data.clip_words), in a tenth of the time. Of other tokenizers
    recent captions are remembered, a bounded number of them.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._words = ClipWords(tokenizer, max_length - 2) if max_length > 2 and is_clip(tokenizer) else None
        if self._words is not None:
            self._blank = np.full(max_length, tokenizer.pad_token_id, np.int64)
            self._start, self._end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._remembered = lru_cache(maxsize=CACHED_CAPTIONS)(self._encode)

    def __call__(self, caption: str) -> np.ndarray:
        """The caption's ids, not to be written to."""
        caption = caption[:MAX_CAPTION_CHARACTERS]
        if self._words is not None:
            ids = self._words.ids(caption)
            row = self._blank.copy()
            row[: len(ids) + 2] = [self._start, *ids, self._end]
            return row
        encode = self._remembered if len(caption) <= CACHED_CAPTION_CHARACTERS else self._encode
        return encode(caption)

    def _encode(self, caption: str) -> np.ndarray:
        encoded = self._tokenizer(caption, padding="max_length", truncation=True, max_length=self._max_length)
        ids = np.array(encoded["input_ids"], dtype=np.int64)
        ids.flags.writeable = False
        return ids
