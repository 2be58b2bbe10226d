"""A BLIP model as a ppsd.data.captioning.Speaker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
from PIL import Image

from ppsd.data.seeds import uniform
from ppsd.interop.blip import Blip, Look
from ppsd.models.blip import BlipWriter, longest_text
from ppsd.models.token_search import Chance, Limits, beam_search, greedy, sampled


@dataclass(frozen=True)
class Speech:
    """How captions are made, by the flags of tools/caption_images.py: greedily, unless there are beams or a top_p."""

    max_length: int = 75
    min_length: int = 5
    num_beams: int = 1
    top_p: Optional[float] = None
    seed: int = 42
    prompt: str = ""


class BlipSpeaker:
    """Captions of pictures. Raises ValueError for lengths that the model cannot write."""

    def __init__(self, blip: Blip, speech: Speech) -> None:
        self._blip, self._speech = blip, speech
        text = blip.model.config.text_config
        words = blip.tokenizer(speech.prompt)["input_ids"][1:-1] if speech.prompt else []
        self._begin = [text.bos_token_id, *words]
        self._limits = Limits(text.sep_token_id, speech.max_length, speech.min_length)
        longest = longest_text(blip.model)
        if speech.max_length > longest:
            raise ValueError(f"--max_length {speech.max_length}: this model writes at most {longest} tokens")
        if speech.max_length <= len(self._begin):
            raise ValueError(
                f"--max_length {speech.max_length} leaves no place for a caption: the first token and --prompt take"
                f" {len(self._begin)}"
            )

    def picture(self, image: Image.Image) -> np.ndarray:
        return shown(image, self._blip.look)

    def captions(self, pictures: np.ndarray, names: Sequence[str]) -> list[str]:
        writer, begin, limits = BlipWriter(self._blip.model, pictures), self._begin, self._limits
        if self._speech.top_p is not None:
            made = sampled(writer, begin, limits, self._speech.top_p, self._chance(names))
        elif self._speech.num_beams > 1:
            made = beam_search(writer, begin, limits, self._speech.num_beams)
        else:
            made = greedy(writer, begin, limits)
        return [self._text([*begin[1:], *tokens]) for tokens in made]

    def _chance(self, names: Sequence[str]) -> Chance:
        hashes = [
            int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little") for name in names
        ]
        return lambda step: np.array([uniform(self._speech.seed, each, step) for each in hashes])

    def _text(self, tokens: Sequence[int]) -> str:
        """Without marks, and without ids beyond the vocabulary (BLIP has two: that of its beginning is one)."""
        known = [token for token in tokens if token < len(self._blip.tokenizer)]
        return " ".join(self._blip.tokenizer.decode(known, skip_special_tokens=True).split())


def shown(image: Image.Image, look: Look) -> np.ndarray:
    """An upright RGB image -> float32 [3,S,S]: squeezed into the square, as BLIP was trained, and normalised."""
    square = image.resize((look.side, look.side), Image.Resampling(look.resample))
    pixels = (np.asarray(square, np.float32) / 255 - np.array(look.mean, np.float32)) / np.array(look.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
