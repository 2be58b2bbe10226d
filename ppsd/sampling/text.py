"""How a pipeline reads prompts: as the run that trained it read captions. `ppsd.json` in its folder says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle

from ppsd.data.learned_tokens import expander
from ppsd.data.tokens import CHUNK_TOKENS, TokenizeCaptions, chunks_of
from ppsd.models.conditioning import Conditioning, check_clip_skip

logger = logging.getLogger(__name__)

NOTE = "ppsd.json"
_COUNTED = 100_000  # tokens
_SHOWN = 100  # characters of a prompt that is too long


@dataclass(frozen=True)
class TextSettings:
    """clip_skip: see ppsd.models.conditioning.hidden_states; max_token_length: None, 75, 150 or 225 tokens a prompt."""

    clip_skip: Optional[int] = None
    max_token_length: Optional[int] = None

    @property
    def chunks(self) -> int:
        """How many runs of 75 tokens a prompt is read in."""
        return chunks_of(self.max_token_length, CHUNK_TOKENS + 2)

    def or_else(self, other: TextSettings) -> TextSettings:
        """Those that are None from `other`."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return TextSettings(**{**asdict(other), **own})


def write_text_settings(folder: Path, settings: TextSettings) -> Path:
    """The note in a pipeline's folder (or a checkpoint's); the defaults, too, so that none of before stays."""
    file = Path(folder, NOTE)
    file.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
    return file


def read_text_settings(folder: Path) -> Optional[TextSettings]:
    """What the note says; None where there is none. Raises ValueError naming the file that cannot be read."""
    file = Path(folder, NOTE)
    if not file.is_file():
        return None
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(note, Mapping):
            raise ValueError("it is not a JSON object")
        values = {name: note.get(name) for name in ("clip_skip", "max_token_length")}
        wrong = [f"{name} is {value!r}" for name, value in values.items() if not _is_count(value)]
        if wrong:
            raise ValueError(f"{wrong[0]}; it must be null or a positive integer")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    return TextSettings(**values)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def use_text_settings(pipe: Any, settings: TextSettings) -> Any:
    """The pipeline, whose prompts `generate` encodes so from now on. Raises ValueError for what cannot be."""
    check_clip_skip(pipe.text_encoder, settings.clip_skip)
    chunks_of(settings.max_token_length, _chunk_length(pipe))
    pipe.text_settings = settings
    return pipe


def text_settings(pipe: Any) -> TextSettings:
    """Those of `use_text_settings`, else the defaults."""
    return getattr(pipe, "text_settings", None) or TextSettings()


class PromptEncoder:
    """Prompts to hidden states, by the tokenizer and text encoder of a pipeline, as training makes them of captions."""

    def __init__(self, pipe: Any) -> None:
        settings, length = text_settings(pipe), _chunk_length(pipe)
        chunks = chunks_of(settings.max_token_length, length)
        self._tokenizer, self._longest = pipe.tokenizer, chunks * (length - 2) + 2
        self._expand = expander(pipe.tokenizer)
        self._tokenize = TokenizeCaptions(pipe.tokenizer, length, chunks)
        self._condition = Conditioning(pipe.text_encoder, False, settings.clip_skip, chunks)

    def __call__(self, prompts: Sequence[str]) -> paddle.Tensor:
        """N prompts -> [N,L,D], L the same for all of them: the rest of a longer prompt is cut."""
        ids = np.stack([self._tokenize(prompt) for prompt in prompts])
        return self._condition(paddle.to_tensor(ids)).hidden

    def warn_of_cuts(self, prompts: Sequence[str]) -> None:
        """Log which prompts are too long."""
        for prompt in dict.fromkeys(prompts):
            count = len(self._tokenizer(self._expand(prompt), truncation=True, max_length=_COUNTED)["input_ids"])
            if count > self._longest:
                text = prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}..."
                logger.warning(
                    "of %d tokens the first %d are used (--max_token_length): %s", count - 2, self._longest - 2, text
                )


def _chunk_length(pipe: Any) -> int:
    return int(min(pipe.tokenizer.model_max_length, pipe.text_encoder.config.max_position_embeddings))
