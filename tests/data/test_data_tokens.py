"""Token ids are exactly the tokenizer's, in bounded time and memory."""

from __future__ import annotations

import functools
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ppdiffusers.transformers import CLIPTokenizer

import ppsd
from ppsd.data import clip_words
from ppsd.data.tokens import TokenizeCaptions
from tests.tiny import tiny_tokenizer

CAPTIONS = [
    "",
    " ",
    "a red circle on a blue background",
    "  A  Red,\tCIRCLE!!\nit's we'll 42 ",
    "一只猫坐在红色的沙发上",
    "ｆｕｌｌ　ｗｉｄｔｈ “quotes” â€œmojibakeâ€\x9d caf\u00e9 cafe\u0301",
    "&lt;b&gt; AT&amp;T <br> ΣΑΣ ΟΔΟΣ \u202e\x00\x1b[31m",
    "🙂🙃 👨‍👩‍👧 #hashtag @user https://example.com/a?b=c",
    "red<|endoftext|>blue <|startoftext|> circle",
    "red" * 40,
    "a" * 500,
    " ".join(["red circle"] * 100),
    "红" * 300,
    "\ud800 half a pair",
]


def ids_of(tokenizer: object, caption: str, length: int = 77) -> list[int]:
    return tokenizer(caption, padding="max_length", truncation=True, max_length=length)["input_ids"]  # type: ignore[operator]


@pytest.mark.parametrize("length", [77, 20])
@pytest.mark.parametrize("ftfy", [True, False])
def test_ids_are_those_of_the_tokenizer(length: int, ftfy: bool) -> None:
    tokenizer = tiny_tokenizer()
    if not ftfy:
        _without_ftfy(tokenizer)
    tokenize = TokenizeCaptions(tokenizer, length)
    for caption in CAPTIONS:
        if not ftfy and "\ud800" in caption:
            continue
        ids = tokenize(caption)
        assert ids.dtype == np.int64
        assert ids.tolist() == ids_of(tokenizer, caption, length), caption


def _without_ftfy(tokenizer: object) -> None:
    from paddlenlp.transformers.clip.tokenizer import BasicTokenizer

    tokenizer.fix_text = None  # type: ignore[attr-defined]
    tokenizer.nlp = BasicTokenizer(strip_accents=False, do_split_on_punc=False, do_lower_case=True)  # type: ignore[attr-defined]


def test_ids_of_random_texts_are_those_of_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    tokenize = TokenizeCaptions(tokenizer, 77)
    rng = random.Random(0)
    alphabet = "abcdeor d c i l &<;'\".,-_19 \t\nßŒéΣ猫红\u3000\u200b\u0301\x07🙂|"
    for _ in range(300):
        caption = "".join(rng.choice(alphabet) for _ in range(rng.choice((5, 60, 900))))
        assert tokenize(caption).tolist() == ids_of(tokenizer, caption), repr(caption)


FRAGMENTS = [
    *CAPTIONS,
    *("a", "red", "Circle", "IT'S", "we'll", "I'M", "'ſ", "K", "İ", "ﬁ", "½", "²", "٣", "Ⅷ", "©", "\xa0", "\xad"),
    *("\ufffd", "&amp;", "&", "<", "<|", "|>", "<|endoftext|>", "<|EndOfText|>", "<cat-toy>", "\x1c", "\x85", "\r\n"),
    *("_", "~", "--"),
]


@functools.cache
def tokenizers() -> dict[str, Any]:
    """That of tests, that of the demo (which looks for special tokens first), the same with tokens added to it."""
    demo = Path(ppsd.__file__).parents[1] / "examples/stable_diffusion/tiny_pipeline/tokenizer"
    with_added = CLIPTokenizer.from_pretrained(str(demo))
    with_added.add_tokens(["<cat-toy>", "redd"])
    return {
        "tiny": tiny_tokenizer(),
        "demo": CLIPTokenizer.from_pretrained(str(demo)),
        "added": with_added,
        "other padding": tiny_tokenizer(pad_token="!"),
    }


@pytest.mark.parametrize("name", ["tiny", "demo", "added", "other padding"])
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(FRAGMENTS),
            st.text(max_size=20),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
        ),
        max_size=12,
    ),
    length=st.sampled_from([77, 77, 20, 3]),
)
def test_ids_of_any_text_are_those_of_the_tokenizer(name: str, parts: list[str], length: int) -> None:
    tokenizer = tokenizers()[name]
    caption = "".join(parts)
    tokenize = TokenizeCaptions(tokenizer, length)
    assert clip_words.is_clip(tokenizer)
    expected = ids_of(tokenizer, caption, length)
    assert tokenize(caption).tolist() == expected
    assert tokenize(caption).tolist() == expected  # now from the words that are remembered


def test_ids_of_a_very_long_caption_are_those_of_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    caption = " ".join(f"word{i}" for i in range(10000))
    assert TokenizeCaptions(tokenizer, 77)(caption).tolist() == ids_of(tokenizer, caption)


@pytest.mark.parametrize(
    "caption",
    [
        " ".join(f"word{i}" for i in range(10000)),
        "".join(random.Random(0).choice("abcdefghijklmnopqrstuvwxyz") for _ in range(2_000_000)),
        "一只猫在草地上" * 200_000,
        "red<|endoftext|>" + "qz" * 1_000_000,
    ],
    ids=[
        "10,000 words",
        "2,000,000 letters",
        "1,400,000 Chinese characters",
        "2,000,000 letters after a special token",
    ],
)
def test_a_long_caption_takes_bounded_time(caption: str) -> None:
    tokenize = TokenizeCaptions(tokenizers()["demo"], 77)
    begin = time.process_time()
    assert tokenize(caption)[-2] != tokenize("")[-2]
    assert time.process_time() - begin < 1


def test_remembered_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_words, "CACHED_WORDS", 50)
    tokenizer = tiny_tokenizer()
    words = clip_words.ClipWords(tokenizer, 75)
    lengths = []
    for i in range(300):
        words.ids(f"word{chr(97 + i % 26) * (i // 26 + 2)} {'long' * 50} x")
        lengths.append(len(words))
    assert max(lengths) == 50
    assert len(words._tokenizer.cache) == 2
    assert len(tokenizer.cache) == 2  # the caller's tokenizer is as it was


def test_another_kind_of_tokenizer_is_used_as_it_is() -> None:
    def tokenizer(caption: str, padding: str, truncation: bool, max_length: int) -> dict[str, list[int]]:
        assert (padding, truncation) == ("max_length", True)
        return {"input_ids": [len(caption)] * max_length}

    assert TokenizeCaptions(tokenizer, 5)("abc").tolist() == [3] * 5
