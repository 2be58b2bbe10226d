"""Prompts are read as captions are: layers, chunks, and what the pipeline's folder says of both."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Optional

import numpy as np
import paddle
import pytest

from ppsd.data.tokens import TokenizeCaptions
from ppsd.models.conditioning import Conditioning
from ppsd.models.placeholder import add_tokens
from ppsd.sampling.pipeline import generate, load_pipeline
from ppsd.sampling.text import (
    PromptEncoder,
    TextSettings,
    read_text_settings,
    text_settings,
    use_text_settings,
    write_text_settings,
)
from tests.tiny import tiny_pipeline, tiny_pipeline_dir, tiny_tokenizer

SETTINGS = {"num_inference_steps": 2, "seed": 5}
LONG = " ".join(["a red circle on the blue background"] * 12)  # 84 words


def test_states_are_those_of_training() -> None:
    pipe = use_text_settings(tiny_pipeline(), TextSettings(2, 150))
    hidden = PromptEncoder(pipe)([LONG, ""])
    assert hidden.shape == [2, 152, 16]
    tokenize = TokenizeCaptions(tiny_tokenizer(), 77, 2)
    ids = paddle.to_tensor(np.stack([tokenize(LONG), tokenize("")]))
    trained = Conditioning(pipe.text_encoder, False, 2, 2)(ids).hidden
    np.testing.assert_array_equal(hidden.numpy(), trained.numpy())


@pytest.mark.parametrize(("scale", "skips"), [(3.0, [None]), (1.0, [None, 1])])
def test_pictures_are_those_of_the_public_pipeline(scale: float, skips: list[Optional[int]]) -> None:
    """ppdiffusers counts from 0: its 1 is ours 2; and it skips no layer for the negative prompt, as training would."""
    pipe = tiny_pipeline()
    start = np.random.default_rng([5, 0]).standard_normal((1, 4, 8, 8), dtype=np.float32)
    public = [
        pipe(
            "a red circle",
            negative_prompt="blue",
            height=64,
            width=64,
            guidance_scale=scale,
            num_inference_steps=2,
            latents=paddle.to_tensor(start),
            output_type="np",
            clip_skip=skip,
        ).images
        for skip in skips
    ]
    for images, settings in zip(public, (TextSettings(), TextSettings(clip_skip=2))):
        use_text_settings(pipe, settings)
        drawn = generate(pipe, ["a red circle"], guidance_scale=scale, negative_prompt="blue", **SETTINGS)
        np.testing.assert_array_equal(drawn, (images * 255).round().astype("uint8"))
    assert len(skips) == 1 or (public[0] != public[1]).any()


def test_the_end_of_a_long_prompt_counts(caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_pipeline()
    other = LONG + " green square"

    def differ() -> bool:
        pictures = [generate(pipe, [p], guidance_scale=3.0, negative_prompt="red", **SETTINGS) for p in (LONG, other)]
        return bool((pictures[0] != pictures[1]).any())

    with caplog.at_level(logging.WARNING, "ppsd"):
        assert not differ()
    assert "of 84 tokens the first 75 are used (--max_token_length): a red" in caplog.text
    caplog.clear()
    use_text_settings(pipe, TextSettings(max_token_length=150))
    with caplog.at_level(logging.WARNING, "ppsd"):
        assert differ()
    assert "tokens the first" not in caplog.text


def test_all_vectors_of_a_learned_token_count(caplog: pytest.LogCaptureFixture) -> None:
    pipe = tiny_pipeline()
    add_tokens(pipe.tokenizer, {"<toy>": 40})
    with caplog.at_level(logging.WARNING, "ppsd"):
        PromptEncoder(pipe).warn_of_cuts(["<toy>", "<toy> <toy>"])
    assert [record.getMessage() for record in caplog.records] == [
        "of 80 tokens the first 75 are used (--max_token_length): <toy> <toy>"
    ]


def test_a_folder_keeps_its_settings(tmp_path: Path) -> None:
    folder = tiny_pipeline_dir(tmp_path)
    assert text_settings(load_pipeline(str(folder))) == TextSettings(None, None)
    file = write_text_settings(folder, TextSettings(2, 225))
    assert json.loads(file.read_text()) == {"clip_skip": 2, "max_token_length": 225}
    assert file == folder / "ppsd.json"
    assert text_settings(load_pipeline(str(folder))) == TextSettings(2, 225)
    assert text_settings(load_pipeline(str(folder), text=TextSettings(clip_skip=1))) == TextSettings(1, 225)
    checkpoint = tmp_path / "checkpoint-1"
    (folder / "unet").rename((checkpoint.mkdir() or checkpoint) / "unet")
    unet = str(checkpoint / "unet")
    assert text_settings(load_pipeline(str(folder), unet)) == TextSettings(2, 225)
    write_text_settings(checkpoint, TextSettings())
    assert text_settings(load_pipeline(str(folder), unet)) == TextSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "not a JSON object"),
        ('{"clip_skip": "2"}', "clip_skip is '2'; it must be null or a positive integer"),
        ('{"max_token_length": true}', "max_token_length is True"),
    ],
)
def test_a_damaged_note_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ppsd.json").write_text(text)
    with pytest.raises(ValueError, match=rf"ppsd\.json: .*{message}"):
        read_text_settings(tmp_path)


def test_settings_must_fit_the_pipeline() -> None:
    with pytest.raises(ValueError, match="--clip_skip is 3; the text encoder has 2 layers"):
        use_text_settings(tiny_pipeline(), TextSettings(clip_skip=3))
    with pytest.raises(ValueError, match="--max_token_length 100 must be 75 or 150 or 225"):
        use_text_settings(tiny_pipeline(), TextSettings(max_token_length=100))
