"""What a run has learned of new tokens, as files: a text encoder that has them, and embeddings to add to another."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
from paddlenlp.trainer import TrainerCallback

from ppsd.formats.safetensors_file import Digest
from ppsd.formats.vector_names import file_stem
from ppsd.interop.embeddings import save_embeddings
from ppsd.models.bundle import Bundle
from ppsd.models.ema import EMA
from ppsd.models.saving import as_float32, component_bytes, read_config, save_component

logger = logging.getLogger(__name__)

TABLE = "text_model.embeddings.token_embedding.weight"
LEARNED = "learned_embeds"
A1111 = "a1111"
Masters = Optional[Mapping[str, paddle.Tensor]]


def learned_rows(bundle: Bundle, averaged: Optional[EMA] = None, masters: Masters = None) -> dict[str, np.ndarray]:
    """float32 [vectors,D] by token: their average, if that is what `averaged` is of; masters as in save_component."""
    if bundle.embeddings is None:
        return {}
    average = averaged.state_dict() if averaged and averaged.layer is bundle.embeddings else {}
    values = {name: average.get(name, p) for name, p in bundle.embeddings.named_parameters()}
    return {name: as_float32((masters or {}).get(value.name, value)) for name, value in values.items()}


def save_text_encoder(
    bundle: Bundle, folder: Path, averaged: Optional[EMA] = None, masters: Masters = None
) -> dict[Path, Digest]:
    """The text encoder with the new tokens in its table, which the bundle's tokenizer has, too."""
    rows = learned_rows(bundle, averaged, masters)
    if not rows:
        return save_component(bundle.text_encoder, folder, masters=masters)
    embedding = bundle.text_encoder.text_model.embeddings.token_embedding
    old = (masters or {}).get(embedding.weight.name, embedding.weight).astype("float32")
    new = paddle.to_tensor(np.concatenate(list(rows.values())), place=old.place)  # masters may be in host memory
    table = embedding.extended(new, old)
    written = save_component(bundle.text_encoder, folder, masters=masters, weights={TABLE: table})
    config = {**read_config(folder / "config.json"), "vocab_size": table.shape[0]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return written


def write_learned(folder: Path, rows: Mapping[str, np.ndarray]) -> dict[Path, Digest]:
    """Files of embeddings, one a token: learned_embeds.safetensors for diffusers, and a1111/TOKEN.safetensors.

    Of several tokens the first kind has the token in its name, too. A1111 knows a token by the name of its file.
    """
    written = {}
    for token, values in rows.items():
        name = LEARNED if len(rows) == 1 else f"{LEARNED}_{file_stem(token)}"
        written[folder / f"{name}.safetensors"] = save_embeddings(folder / f"{name}.safetensors", token, values)
        other = folder / A1111 / f"{file_stem(token)}.safetensors"
        other.parent.mkdir(parents=True, exist_ok=True)
        written[other] = save_embeddings(other, token, values, "a1111")
    return written


def learned_bytes(bundle: Bundle) -> int:
    """What `write_learned` writes."""
    return 0 if bundle.embeddings is None else 2 * component_bytes(bundle.embeddings)


class UnseenTokens(TrainerCallback):
    """Warns once where no caption of the first steps of this process had one of the new tokens: they learn nothing."""

    STEPS = 20

    def __init__(self, rows: paddle.nn.Layer) -> None:
        self.rows = rows

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.due = state.global_step + min(self.STEPS, state.max_steps - state.global_step)
        self.before = {name: p.numpy() for name, p in self.rows.named_parameters()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != self.due:
            return
        for name, parameter in self.rows.named_parameters():
            if parameter.optimize_attr["learning_rate"] and np.array_equal(parameter.numpy(), self.before[name]):
                logger.warning("%s has learned nothing in the first steps: do the captions have it?", name)


class TrainedUntil(TrainerCallback):
    """From step `until` on the weights of a layer stay as they are (diffusers' --train_text_encoder_ti_frac).

    Their learning rate is 0 from then on. Where a run goes on is known from its step alone.
    """

    def __init__(self, layer: paddle.nn.Layer, until: int) -> None:
        self.layer, self.until = layer, until

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < self.until:
            return
        for parameter in self.layer.parameters():
            if parameter.optimize_attr["learning_rate"]:
                logger.info("step %d: the new tokens stay as they are from here on", state.global_step)
            parameter.optimize_attr["learning_rate"] = 0.0
