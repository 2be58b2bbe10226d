"""What paddlenlp's CLIPTokenizer makes of a caption, word by word, without its cost for each caption."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

CACHED_WORDS = 50_000
CACHED_WORD_CHARACTERS = 100
SHORT_CAPTION_CHARACTERS = 2000

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_ASCII_WORDS = re.compile(_WORDS.replace(r"\p{L}", "a-z").replace(r"\p{N}", "0-9"))  # of lower-case text


def is_clip(tokenizer: Any) -> bool:
    """Whether `ClipWords` does what this tokenizer does: it is paddlenlp's CLIPTokenizer with nothing overridden."""
    kind = type(tokenizer)
    homes = {
        "_tokenize": "paddlenlp.transformers.clip.tokenizer",
        "bpe": "paddlenlp.transformers.clip.tokenizer",
        "build_inputs_with_special_tokens": "paddlenlp.transformers.clip.tokenizer",
        "_convert_token_to_id": "paddlenlp.transformers.clip.tokenizer",
        "tokenize": "paddlenlp.transformers.tokenizer_utils",
        "_encode_plus": "paddlenlp.transformers.tokenizer_utils",
        "convert_tokens_to_ids": "paddlenlp.transformers.tokenizer_utils",
        "prepare_for_tokenization": "paddlenlp.transformers.tokenizer_utils",
    }
    return (
        all(getattr(getattr(kind, name, None), "__module__", None) == home for name, home in homes.items())
        and tokenizer.pat.pattern == _WORDS
        and tokenizer.padding_side == tokenizer.truncation_side == "right"
        and not getattr(tokenizer, "do_lower_case", False)
        and tokenizer.pad_token_id is not None
    )


class ClipWords:
    """The ids of captions' words, of which a bounded number is remembered.

    The work on one caption is bounded: of a text without special tokens no more words are encoded than can give
    `max_count` ids, and no more of a single word.
    """

    def __init__(self, tokenizer: Any, max_count: int) -> None:
        self._tokenizer = copy.copy(tokenizer)
        self._unsplit = {word: split for word, split in tokenizer.cache.items() if word == split}
        self._tokenizer.cache = dict(self._unsplit)
        self._tokenizer._tokenize = self._tokens
        self._special = [word for word in tokenizer.unique_no_split_tokens if word]
        self._max_count = max_count
        # Every word gives at least one id and every id stands for at most `longest` characters, so cutting changes
        # no id, unless one word is longer than all ids together and its end changes how its beginning is split.
        longest = max(map(len, tokenizer.encoder))
        self._max_characters = (max_count + 3) * longest
        self._ids: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """Words that are remembered."""
        return len(self._ids)

    def ids(self, caption: str) -> list[int]:
        """The first `max_count` ids, without those of the caption's start and end."""
        ids: list[int] = []
        if any(word in caption for word in self._special):  # for which the tokenizer has rules
            ids = self._tokenizer.convert_tokens_to_ids(self._tokenizer.tokenize(caption))
            return ids[: self._max_count]
        for word in self._words(caption):
            known = self._ids.get(word)
            ids += self._encode(word) if known is None else known
            if len(ids) >= self._max_count:
                break
        return ids[: self._max_count]

    def _words(self, caption: str) -> Iterable[str]:
        """The matches of the tokenizer's pattern in the caption as it cleans it."""
        tokenizer = self._tokenizer
        if caption.isascii() and caption.isprintable() and "&" not in caption:  # ftfy leaves that as it is
            pattern, text = _ASCII_WORDS, caption.lower()
        elif tokenizer.fix_text is None:
            pattern, text = tokenizer.pat, " ".join(tokenizer.nlp.tokenize(caption))
        else:
            pattern, text = tokenizer.pat, tokenizer.re.sub(r"\s+", " ", tokenizer.fix_text(caption)).strip().lower()
        if len(text) <= SHORT_CAPTION_CHARACTERS:
            return pattern.findall(text)
        return islice((match.group() for match in pattern.finditer(text)), self._max_count)

    def _encode(self, word: str) -> tuple[int, ...]:
        ids = tuple(self._tokenizer.convert_tokens_to_ids(self._split(word)))
        if len(word) <= CACHED_WORD_CHARACTERS:
            if len(self._ids) >= CACHED_WORDS:
                self._ids.clear()
            self._ids[word] = ids
        return ids

    def _split(self, word: str) -> list[str]:
        letters = "".join(self._tokenizer.byte_encoder[byte] for byte in word.encode("utf-8"))
        tokens = self._tokenizer.bpe(letters[: self._max_characters]).split(" ")
        self._tokenizer.cache = dict(self._unsplit)  # else it would grow by each word
        return tokens

    def _tokens(self, text: str) -> list[str]:
        """Stands in for the tokenizer's `_tokenize`: a text between special tokens -> the first of its tokens."""
        tokens: list[str] = []
        for word in islice(self._words(text), self._max_count):
            tokens += self._split(word)
        return tokens
