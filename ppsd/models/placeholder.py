"""New tokens whose embeddings are learned (textual inversion, arXiv 2208.01618), beside a table that stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

from ppsd.formats.vector_names import vector_names, vectors_of
from ppsd.models.bundle import Bundle

logger = logging.getLogger(__name__)

FLAG = "--placeholder_token"


@dataclass(frozen=True)
class Placeholder:
    """A new token of so many vectors, which begin as those of the words `initializer`; None: random ones."""

    token: str
    vectors: int = 1
    initializer: Optional[str] = None


class AddedRows(nn.Layer):
    """The embeddings of new tokens: one float32 parameter [vectors,D] a token.

    It has the token's name, so the saved weights of this layer are a file of embeddings in diffusers' form.
    """

    def __init__(self, rows: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for token, values in rows.items():
            begin = nn.initializer.Assign(np.asarray(values, np.float32))
            parameter = self.create_parameter(list(values.shape), dtype="float32", default_initializer=begin)
            self.add_parameter(token, parameter)

    def forward(self) -> paddle.Tensor:
        """All of them, in the order of their ids: [n,D]."""
        return paddle.concat(self.parameters())


class ExtendedEmbedding(nn.Layer):
    """Stands in for a text encoder's table: ids from `first` on are rows of `added`. ids int64 [B,L] -> [B,L,D].

    Only the table's weight is a part of it, under its old name: what is saved of the text encoder, or trained with it,
    does not change. Gradients reach the added rows alone, or both where the table is trained, too.
    """

    def __init__(self, table: nn.Layer, added: AddedRows, first: int) -> None:
        super().__init__()
        self.weight, self.first = table.weight, first
        self._others = (table if isinstance(table, ExtendedEmbedding) else None, added)  # a tuple: no sublayers

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        inner, added = self._others
        is_new, none = ids >= self.first, paddle.zeros_like(ids)
        known = paddle.where(is_new, none, ids)
        old = inner(known) if inner is not None else functional.embedding(known, self.weight)
        new = functional.embedding(paddle.where(is_new, ids - self.first, none), added().astype(old.dtype))
        return paddle.where(is_new.unsqueeze(-1).expand_as(old), new, old)

    def extended(self, rows: paddle.Tensor, table: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        """A table that says the same without this layer: [max(V, first + n),D]. rows [n,D]; table: of the old words."""
        table = self.weight if table is None else table
        end = self.first + rows.shape[0]
        parts = [table[: self.first], rows.astype(table.dtype), table[end:]]
        return paddle.concat([part for part in parts if part.shape[0]])


def add_placeholders(bundle: Bundle, placeholders: Sequence[Placeholder], seed: int) -> None:
    """Give the bundle new tokens, with the rows to train in `bundle.embeddings`. Raises ValueError naming the flag."""
    table = bundle.text_encoder.text_model.embeddings.token_embedding.weight
    rows: dict[str, np.ndarray] = {}
    for index, placeholder in enumerate(placeholders):
        rng = np.random.default_rng([seed, index])
        rows[placeholder.token] = initial_rows(bundle.tokenizer, table, placeholder, rng)
    bundle.embeddings = add_rows(bundle.tokenizer, bundle.text_encoder, rows)


def initial_rows(
    tokenizer: Any, table: paddle.Tensor, placeholder: Placeholder, rng: np.random.Generator
) -> np.ndarray:
    """float32 [vectors,D]: the embeddings of the initializer's tokens in turn, else random ones as wide as the table's.

    Raises ValueError where the initializer has more tokens than there are vectors.
    """
    count = placeholder.vectors
    if placeholder.initializer is None:
        return rng.normal(scale=float(table.std()), size=(count, table.shape[1])).astype(np.float32)
    ids = tokenizer(placeholder.initializer)["input_ids"][1:-1]
    if not 1 <= len(ids) <= count:
        raise ValueError(
            f"--initializer_token: {placeholder.initializer!r} is {len(ids)} tokens of the tokenizer's, and"
            f" {placeholder.token} has --num_vectors {count}: give a word that is one token, or as many vectors"
        )
    if len(ids) > 1:
        logger.info("%s begins as the %d tokens of %r in turn", placeholder.token, len(ids), placeholder.initializer)
    chosen = [ids[i % len(ids)] for i in range(count)]
    return np.asarray(table[paddle.to_tensor(chosen)].astype("float32").numpy())


def add_rows(tokenizer: Any, text_encoder: nn.Layer, rows: Mapping[str, np.ndarray], source: str = FLAG) -> AddedRows:
    """Have a tokenizer and a text encoder know new tokens. rows: [vectors,D] by token; source: who names them.

    Raises ValueError for rows of another width, and what `add_tokens` raises.
    """
    embeddings = text_encoder.text_model.embeddings
    width = embeddings.token_embedding.weight.shape[1]
    for token, values in rows.items():
        if values.ndim != 2 or values.shape[1] != width:
            raise ValueError(
                f"{source}: the embedding of {token} is {list(values.shape)}, and this text encoder's are"
                f" [vectors, {width}]: it was learned for another model"
            )
    first = add_tokens(tokenizer, {token: len(values) for token, values in rows.items()}, source)
    added = AddedRows(rows)
    embeddings.token_embedding = ExtendedEmbedding(embeddings.token_embedding, added, first)
    return added


def add_tokens(tokenizer: Any, counts: Mapping[str, int], source: str = FLAG) -> int:
    """Add tokens of so many vectors each to a tokenizer; returns the first new id, after which the others follow.

    Raises ValueError, with `source` in front, for a token that it knows already.
    """
    names = [name for token, count in counts.items() for name in vector_names(token, count)]
    known = getattr(tokenizer, "added_tokens_encoder", {})
    for name in names:
        if len(tokenizer.tokenize(name)) == 1 or tokenizer.convert_tokens_to_ids(name) != tokenizer.unk_token_id:
            raise ValueError(f"{source}: the tokenizer knows {name} already; a name that is no word yet is needed")
    expected = {token: vector_names(token, count) for token, count in counts.items() if count > 1}
    if len(set(names)) < len(names) or vectors_of({*known, *names}) != {**vectors_of(known), **expected}:
        raise ValueError(f"{source}: of {', '.join(counts)} one is named as a vector of another; rename it")
    first = len(tokenizer)
    tokenizer.verbose = False
    tokenizer.add_tokens(names)
    ids = tokenizer.convert_tokens_to_ids(names)
    assert list(ids) == list(range(first, first + len(names))), ids
    return first


def check_token(token: str) -> None:
    """Raise ValueError for a token that captions or files could not have."""
    if not token or any(character.isspace() or character in ",." for character in token):
        raise ValueError(f"{FLAG} {token!r}: it must be without white space, commas and dots, e.g. <my-toy>")
    if hasattr(nn.Layer(), token) or token == "config":  # a parameter's name
        raise ValueError(f"{FLAG} {token!r}: write it as <{token}>")
