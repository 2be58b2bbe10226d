"""Caption -> token ids, the tokenizer's own, in bounded time and memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Optional

import numpy as np

from ppsd.data.clip_words import ClipWords, is_clip
from ppsd.data.learned_tokens import expander

CACHED_CAPTIONS = 4096
CACHED_CAPTION_CHARACTERS = 400
MAX_CAPTION_CHARACTERS = 200_000
CHUNK_TOKENS = 75  # words of a chunk: CLIP's 77 positions without the caption's start and end
TOKEN_LENGTHS = (75, 150, 225)


class TokenizeCaptions:
    """Token ids int64 [L]: `tokenizer(caption, padding="max_length", truncation=True, max_length=L)`, L = max_length.

    With several `chunks`: int64 [chunks * max_length], see `in_chunks`. Tokens that were added to the tokenizer before
    stand for all of their vectors (see ppsd.data.learned_tokens). A caption is cut after 200,000 characters,
    which is further than its first tokens reach. For paddlenlp's CLIPTokenizer the ids come from its words (see
    ppsd.data.clip_words), in a tenth of the time. Of other tokenizers recent captions are remembered, a bounded number
    of them.
    """

    def __init__(self, tokenizer: Any, max_length: int, chunks: int = 1) -> None:
        self._tokenizer, self._expand = tokenizer, expander(tokenizer)
        self._max_length, self._chunks = max_length, chunks
        self._length = length = chunks * (max_length - 2) + 2 if chunks > 1 else max_length
        self._words = ClipWords(tokenizer, length - 2) if length > 2 and is_clip(tokenizer) else None
        if self._words is not None:
            self._blank = np.full(length, tokenizer.pad_token_id, np.int64)
            self._start, self._end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._remembered = lru_cache(maxsize=CACHED_CAPTIONS)(self._encode)

    def __call__(self, caption: str) -> np.ndarray:
        """The caption's ids, not to be written to."""
        caption = self._expand(caption[:MAX_CAPTION_CHARACTERS])
        if self._words is not None:
            ids = self._words.ids(caption)
            row = self._blank.copy()
            row[: len(ids) + 2] = [self._start, *ids, self._end]
            return self._in_chunks(row)
        encode = self._remembered if len(caption) <= CACHED_CAPTION_CHARACTERS else self._encode
        return encode(caption)

    def _encode(self, caption: str) -> np.ndarray:
        encoded = self._tokenizer(caption, padding="max_length", truncation=True, max_length=self._length)
        ids = self._in_chunks(np.array(encoded["input_ids"], dtype=np.int64))
        ids.flags.writeable = False
        return ids

    def _in_chunks(self, ids: np.ndarray) -> np.ndarray:
        if self._chunks == 1:
            return ids
        return in_chunks(ids, self._max_length, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id)


def in_chunks(ids: np.ndarray, length: int, eos: int, pad: int) -> np.ndarray:
    """A long caption as several that CLIP can read: ids [k * (length - 2) + 2] -> [k * length], each with both ends.

    As `get_input_ids` of kohya's sd-scripts (library/train_util.py), which breaks wherever 75 tokens are full:
    Stable Diffusion 1 pads with the end token (pad == eos), so every chunk is BOS ... EOS. Stable Diffusion 2 pads with
    another ("!", 0): there a chunk ends with EOS where a word is its last, else with what the caption ends with, and
    one of padding alone is BOS EOS PAD ... PAD.
    """
    step = length - 2
    chunks = [np.concatenate([ids[:1], ids[i : i + step], ids[-1:]]) for i in range(1, len(ids) - 1, step)]
    for chunk in chunks if pad != eos else ():
        if chunk[-2] not in (eos, pad):
            chunk[-1] = eos
        if chunk[1] == pad:
            chunk[1] = eos
    return np.concatenate(chunks)


def chunks_of(max_token_length: Optional[int], max_length: int) -> int:
    """How many chunks --max_token_length asks for. Raises ValueError where --model_max_length contradicts it."""
    if max_token_length is None:
        return 1
    if max_token_length not in TOKEN_LENGTHS:
        raise ValueError(f"--max_token_length {max_token_length} must be {' or '.join(map(str, TOKEN_LENGTHS))}")
    if max_length != CHUNK_TOKENS + 2:
        raise ValueError(
            f"--max_token_length {max_token_length} is of chunks of {CHUNK_TOKENS} tokens, and --model_max_length"
            f" {max_length} of one of {max_length - 2}: leave one of them out"
        )
    return max_token_length // CHUNK_TOKENS
