"""Flags of captions and of how they are encoded: parsed, refused, and held against what a cache was made with."""

from __future__ import annotations

import logging
import types
from typing import Any

import pytest

from ppsd.data.config import StreamConfig
from ppsd.sampling.text import TextSettings
from ppsd.trainers import cached_data
from ppsd.trainers.arguments import DataArguments, ModelArguments
from ppsd.trainers.latent_cache import TextEncoder, latent_fingerprint
from tests.tiny import tiny_text_encoder, tiny_tokenizer, tiny_vae
from tests.trainers.conftest import parse

NEEDED = ["--output_dir", "out", "--max_steps", "5"]
KOHYA = """--shuffle_caption --keep_tokens 2 --caption_prefix sks, --caption_tag_dropout_rate 0.2 --undesired_tags a,b
--proportion_empty_prompts 0.3 --max_token_length 225 --clip_skip 2"""


def test_kohyas_flags_are_taken() -> None:
    model, data, _ = parse([*NEEDED, *KOHYA.split(), "--trigger_words", "my dog"])
    model.check_text(), data.check_captions()
    assert (data.shuffle_caption, data.keep_tokens, data.caption_prefix) == (True, 2, "sks,")
    assert (data.caption_tag_dropout_rate, data.undesired_tags, data.trigger_words) == (0.2, "a,b", "my dog")
    assert data.caption_dropout_rate == 0.3
    assert (model.text_settings, model.text_settings.chunks) == (TextSettings(2, 225), 3)
    usual = parse(NEEDED)[0]
    assert (usual.text_settings, usual.model_max_length, usual.text_settings.chunks) == (TextSettings(), 77, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_token_length": 300}, "--max_token_length 300 must be 75 or 150 or 225"),
        (
            {"max_token_length": 150, "model_max_length": 50},
            "--model_max_length 50 of one of 48: leave one of them out",
        ),
        ({"clip_skip": 0}, "--clip_skip is 0; 1 is the text encoder's last layer"),
    ],
)
def test_text_flags_that_cannot_work(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelArguments(**flags).check_text()


def test_caption_flags_that_cannot_work_and_that_have_nothing_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="--caption_tag_dropout_rate 2 is not between 0 and 1"):
        DataArguments(caption_tag_dropout_rate=2).check_captions()
    with caplog.at_level(logging.WARNING, "ppsd"):
        DataArguments(keep_tokens=1, shuffle_caption=True).check_captions()
        assert not caplog.text
        DataArguments(keep_tokens=1).check_captions()
    assert "--keep_tokens has nothing to do without" in caplog.text


def fingerprint(clip_skip: Any = None, **settings: Any) -> dict[str, Any]:
    text = TextEncoder(tiny_text_encoder(), tiny_tokenizer(), clip_skip)
    return latent_fingerprint(tiny_vae(), StreamConfig("x", resolution=64, **settings), text)


def test_a_cache_of_before_these_flags_stays_good() -> None:
    plain = fingerprint()
    assert not {"clip_skip", "max_token_length"} & set(plain)
    assert fingerprint(1, max_token_length=75) == plain
    unusual = fingerprint(2, max_token_length=150)
    assert unusual == {**plain, "clip_skip": 2, "max_token_length": 150}


@pytest.mark.parametrize(
    ("cached", "flags", "message"),
    [
        ({}, {"clip_skip": 2}, "--clip_skip is 2; the text was cached with 1"),
        ({"clip_skip": 2}, {}, "--clip_skip is 1; the text was cached with 2"),
        ({}, {"max_token_length": 150}, "--max_token_length is 150; the text was cached with 75"),
        ({"max_token_length": 225}, {}, "--max_token_length is 75; the text was cached with 225"),
        ({}, {"shuffle_caption": True}, "--shuffle_caption cannot act: the text encoder's states"),
        ({}, {"caption_prefix": "a"}, "--caption_prefix cannot act"),
        ({}, {"undesired_tags": "a"}, "--undesired_tags cannot act"),
        ({}, {"trigger_words": "a"}, "--trigger_words cannot act"),
        ({}, {"caption_tag_dropout_rate": 0.5}, "--caption_tag_dropout_rate cannot act"),
    ],
)
def test_cached_text_must_be_what_the_run_would_encode(
    cached: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    made = fingerprint(cached.get("clip_skip"), max_token_length=cached.get("max_token_length"))
    check(made, cached)  # the very flags that it was made with
    with pytest.raises(ValueError, match=message):
        check(made, flags)


def check(made: dict[str, Any], flags: dict[str, Any]) -> None:
    on_data = {name: value for name, value in flags.items() if name in DataArguments.__dataclass_fields__}
    on_model = {name: value for name, value in flags.items() if name not in on_data}
    bundle: Any = types.SimpleNamespace(vae=tiny_vae(), text_encoder=tiny_text_encoder(), tokenizer=tiny_tokenizer())
    args: Any = types.SimpleNamespace(resolution=64)
    cached_data.check_cached(made, bundle, ModelArguments(**on_model), DataArguments(**on_data), args)
