"""BLIP (arXiv 2201.12086) as a writer of captions: pictures and the words so far -> the next word.

Shapes: B images, N = B*K sentences, S side of a picture, L tokens, D width, h heads, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddle.nn import functional
from paddlenlp.transformers import BlipForConditionalGeneration

compat.apply()

Pair = tuple[paddle.Tensor, paddle.Tensor]
"""Keys and values of a layer, [N,h,L,D/h]."""


class BlipWriter:
    """A ppsd.models.token_search.Writer for pictures float32 [B,3,S,S]; the model must be in eval mode.

    The stack's decoder computes the keys and values of the image anew for each word, which is most of its work (577
    places and one word); here they are computed once, and the beams of an image share them.
    """

    def __init__(self, model: BlipForConditionalGeneration, pictures: np.ndarray) -> None:
        self._decoder = model.text_decoder
        self._layers = list(self._decoder.bert.encoder.layer)
        with paddle.no_grad():
            seen = model.vision_model(paddle.to_tensor(pictures))[0]
            self._images = [_keys_and_values(layer.crossattention.self, seen) for layer in self._layers]
        self._past: list[Pair] = []

    def begin(self, prompt: Sequence[int]) -> np.ndarray:
        self._past = []
        return self._step(paddle.to_tensor([list(prompt)] * self._images[0][0].shape[0], dtype="int64"))

    def go_on(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        chosen = paddle.to_tensor(rows.astype(np.int64))
        self._past = [
            (paddle.index_select(keys, chosen), paddle.index_select(values, chosen)) for keys, values in self._past
        ]
        return self._step(paddle.to_tensor(tokens.astype(np.int64).reshape(-1, 1)))

    @paddle.no_grad()
    def _step(self, ids: paddle.Tensor) -> np.ndarray:
        """ids [N,L] after those of the past -> logits [N,V] of the token after them, float32."""
        length = self._past[0][0].shape[2] if self._past else 0
        hidden = self._decoder.bert.embeddings(input_ids=ids, past_key_values_length=length)
        mask = _causal_mask(ids.shape[1], hidden.dtype) if ids.shape[1] > 1 else None
        past: list[Pair] = []
        for number, layer in enumerate(self._layers):
            before = self._past[number] if self._past else None
            hidden, pair = layer.attention(hidden, mask, past_key_value=before)
            past.append(pair)
            hidden = layer.feed_forward_chunk(_look(layer.crossattention, hidden, self._images[number]))
        self._past = past
        logits: np.ndarray = self._decoder.cls(hidden[:, -1:])[:, 0].astype("float32").numpy()
        return logits


def _keys_and_values(attention: Any, seen: paddle.Tensor) -> Pair:
    return attention.transpose_for_scores(attention.key(seen)), attention.transpose_for_scores(attention.value(seen))


def _causal_mask(length: int, dtype: Any) -> paddle.Tensor:
    """[1,1,L,L], to be added to scores."""
    return paddle.triu(paddle.full([1, 1, length, length], -1e4, dtype), 1)


def _look(layer: Any, hidden: paddle.Tensor, image: Pair) -> paddle.Tensor:
    """Attention of sentences [N,L,D] to their images [B,...]: those of one image as one sentence of K*L words."""
    attention, (keys, values) = layer.self, image
    count, length, width = hidden.shape
    heads, size = attention.num_attention_heads, attention.attention_head_size
    queries = attention.query(hidden).reshape([keys.shape[0], -1, heads, size]).transpose([0, 2, 1, 3])
    scores = paddle.matmul(queries, keys, transpose_y=True) / attention.scale
    said = paddle.matmul(functional.softmax(scores, axis=-1), values)
    return layer.output(said.transpose([0, 2, 1, 3]).reshape([count, length, width]), hidden)


def longest_text(model: BlipForConditionalGeneration) -> int:
    """Tokens that the model has places for."""
    longest: Optional[int] = model.config.text_config.max_position_embeddings
    return int(longest or 0)
