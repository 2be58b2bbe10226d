"""The text encoder's hidden states of the captions of a data set: encoding those that are not there."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
import paddle

from ppsd.formats.array_store import ArrayStore
from ppsd.models.conditioning import Conditioning
from ppsd.models.fingerprint import text_encoder_fingerprint, tokenizer_fingerprint

logger = logging.getLogger(__name__)


class TextFiller:
    """Encodes the captions that a store lacks. `tokenize` gives int64 [k*L], k the chunks of the conditioning.

    written, bytes: arrays of this process.
    """

    def __init__(
        self,
        conditioning: Conditioning,
        tokenizer: Any,
        tokenize: Callable[[str], np.ndarray],
        store: ArrayStore,
        batch_size: int,
    ) -> None:
        self._conditioning, self._tokenize, self._store = conditioning, tokenize, store
        self._batch_size = batch_size
        encoder = conditioning.text_encoder
        self._facts = [
            text_encoder_fingerprint(encoder),
            str(next(iter(encoder.parameters())).dtype),
            tokenizer_fingerprint(tokenizer),
            len(tokenize("")),
            conditioning.chunks,
            conditioning.clip_skip or 1,
        ]
        self.written = self.bytes = 0

    def key(self, caption: str) -> str:
        facts = json.dumps([*self._facts, caption])
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()

    def fill(self, captions: Sequence[str], on_caption: Callable[[], Any]) -> list[tuple[str, str]]:
        """Each caption and its key; afterwards the store has their states. One that is no text is left out."""
        keys, waiting = [], []
        for caption in captions:
            on_caption()
            try:
                ids = self._tokenize(caption)
            except UnicodeEncodeError:  # the stream counts its record
                continue
            keys.append((caption, self.key(caption)))
            if not self._is_there(keys[-1][1]):
                waiting.append((keys[-1][1], ids))
            if len(waiting) == self._batch_size:
                self._encode(waiting)
                waiting = []
        if waiting:
            self._encode(waiting)
        return keys

    def _is_there(self, key: str) -> bool:
        try:
            return self._store.read(key) is not None
        except ValueError as error:
            logger.warning("%s; the caption is encoded anew", error)
            return False

    def _encode(self, items: list[tuple[str, np.ndarray]]) -> None:
        condition = self._conditioning(paddle.to_tensor(np.stack([ids for _, ids in items])))
        for (key, _), hidden in zip(items, condition.hidden.astype("float32").numpy()):
            self._store.write(key, hidden)
            self.written, self.bytes = self.written + 1, self.bytes + hidden.nbytes
