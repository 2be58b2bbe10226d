"""Cached latents of a data set: which models and settings made them, and making those of one part.

Decoding runs in threads ahead of the device (the decoders release the interpreter's lock), and the numbers of a batch
are fetched from the device when the next one is under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, TypeVar, Union

import numpy as np
import paddle
from paddle import nn

from ppsd.data.captions import choose_caption
from ppsd.data.config import StreamConfig
from ppsd.models.conditioning import Conditioning
from ppsd.models.fingerprint import text_encoder_fingerprint, tokenizer_fingerprint, vae_fingerprint
from ppsd.models.latents import posterior
from ppsd.types import BadRecord, LatentRecord, Record, Sample

NOT_FINITE = "latents not finite"
HELD_RECORDS = 512

AnyRecord = Union[Record, LatentRecord, BadRecord]
Decode = Callable[[Record], Union[Sample, BadRecord]]
Size = tuple[int, ...]
T = TypeVar("T")
R = TypeVar("R")


# Entries of the fingerprint that are left out where they are as usual: caches of before they were there stay good.
TEXT_DEFAULTS = {"clip_skip": 1, "max_token_length": 75}


class TextEncoder(NamedTuple):
    """What makes hidden states of captions. clip_skip: see ppsd.models.conditioning."""

    encoder: nn.Layer
    tokenizer: Any
    clip_skip: Optional[int] = None


def latent_fingerprint(vae: nn.Layer, config: StreamConfig, text: Optional[TextEncoder]) -> dict[str, Any]:
    """What cached latents depend on; the entries of the text are None where it is not cached."""
    buckets = [config.min_bucket_reso, config.max_bucket_reso, config.bucket_reso_steps, config.bucket_no_upscale]
    return {
        "vae": vae_fingerprint(vae),
        "resolution": config.resolution,
        "interpolation": config.interpolation,
        "scaled_jpeg": config.scaled_jpeg,
        "crop": "center",
        "flip": False,
        "buckets": buckets if config.enable_bucket else None,
        "text_encoder": text and text_encoder_fingerprint(text.encoder),
        "tokenizer": text and tokenizer_fingerprint(text.tokenizer),
        "max_length": config.max_length if text else None,
        "caption_rule": config.caption_rule if text else None,
        **(_unusual(clip_skip=text.clip_skip, max_token_length=config.max_token_length) if text else {}),
    }


def _unusual(**values: Optional[int]) -> dict[str, int]:
    """Those that differ from TEXT_DEFAULTS."""
    return {name: value for name, value in values.items() if value not in (None, TEXT_DEFAULTS[name])}


class Encoder:
    """Pixels and token ids to moments and, with a text encoder, hidden states; float32 on the current device."""

    def __init__(self, vae: nn.Layer, text: Optional[TextEncoder], chunks: int = 1) -> None:
        """chunks: of the token ids, see ppsd.data.tokens."""
        self._vae = vae
        self._vae.eval()
        self._condition = None if text is None else Conditioning(text.encoder, False, text.clip_skip, chunks)

    def start(self, samples: list[Sample]) -> Callable[[], tuple[np.ndarray, Optional[np.ndarray]]]:
        """Begin to encode samples of one size; calling the result waits for moments [B,8,h,w] and hidden [B,L,D]."""
        moments = posterior(self._vae, paddle.to_tensor(np.stack([sample.pixels for sample in samples])))
        hidden = None
        if self._condition is not None:
            hidden = self._condition(paddle.to_tensor(np.stack([sample.input_ids for sample in samples]))).hidden
        return lambda: (moments.numpy(), None if hidden is None else hidden.astype("float32").numpy())

    def empty_hidden(self, input_ids: np.ndarray) -> Optional[np.ndarray]:
        """Hidden states [L,D] of one caption's ids [L], None without a text encoder."""
        if self._condition is None:
            return None
        return self._condition(paddle.to_tensor(input_ids[None])).hidden.astype("float32").numpy()[0]


@dataclass
class Slot:
    """A record on its way; `result` is there when it is done."""

    number: int
    record: Optional[Record]
    sample: Optional[Sample]
    result: Union[LatentRecord, BadRecord, None] = None


def encode_records(
    records: Iterable[tuple[int, AnyRecord]],
    decode: Decode,
    encoder: Encoder,
    *,
    batch_size: int,
    num_workers: int = 0,
    caption_rule: str = "first",
) -> Iterator[tuple[int, Union[LatentRecord, BadRecord]]]:
    """The records of a part in their order, encoded in batches of one size.

    Hidden states are of the caption that `caption_rule` chooses (not random), which then is the record's first. Of
    images in many sizes few wait for long: when HELD_RECORDS are held back by one, its batch goes as it is.
    """
    held: deque[Slot] = deque()
    waiting: dict[Size, list[Slot]] = {}
    flying: deque[Callable[[], None]] = deque()

    def launch(size: Size) -> None:
        flying.append(_encode(waiting.pop(size), encoder, caption_rule))
        if len(flying) > 1:
            flying.popleft()()

    for slot in decoded(records, decode, num_workers, ahead=2 * batch_size):
        held.append(slot)
        if slot.sample is not None:
            size = slot.sample.pixels.shape
            waiting.setdefault(size, []).append(slot)
            if len(waiting[size]) == batch_size:
                launch(size)
        head = held[0].sample
        if len(held) > HELD_RECORDS + 2 * batch_size and head is not None and head.pixels.shape in waiting:
            launch(head.pixels.shape)
        yield from _done(held)
    for size in list(waiting):
        launch(size)
    while flying:
        flying.popleft()()
    yield from _done(held)


def _done(held: deque[Slot]) -> Iterator[tuple[int, Union[LatentRecord, BadRecord]]]:
    while held and held[0].result is not None:
        slot = held.popleft()
        assert slot.result is not None
        yield slot.number, slot.result


def _encode(slots: list[Slot], encoder: Encoder, caption_rule: str) -> Callable[[], None]:
    """Begin to encode; calling the result waits for it and fills the slots."""
    fetch = encoder.start([slot.sample for slot in slots if slot.sample is not None])

    def finish() -> None:
        moments, hidden = fetch()
        for i, slot in enumerate(slots):
            assert slot.record is not None
            slot.result = _latent_record(slot.record, moments[i], None if hidden is None else hidden[i], caption_rule)
            slot.record = slot.sample = None

    return finish


def _latent_record(
    record: Record, moments: np.ndarray, hidden: Optional[np.ndarray], caption_rule: str
) -> Union[LatentRecord, BadRecord]:
    if not np.isfinite(moments).all():
        return BadRecord(NOT_FINITE, "the VAE gives values that are not finite for this image")
    captions = [record.caption, *record.more_captions]
    if hidden is not None:
        chosen = choose_caption(captions, caption_rule, seed=0)
        captions.remove(chosen)
        captions.insert(0, chosen)
    return LatentRecord(moments, captions[0], record.meta, tuple(captions[1:]), hidden)


def decoded(records: Iterable[tuple[int, AnyRecord]], decode: Decode, num_workers: int, ahead: int) -> Iterator[Slot]:
    """The records in order, decoded by threads up to `ahead` before they are taken; 0 workers: by the caller."""
    return in_threads(lambda job: _decode(*job, decode), records, num_workers, ahead)


def in_threads(work: Callable[[T], R], items: Iterable[T], num_workers: int, ahead: int) -> Iterator[R]:
    """`map(work, items)` by threads, up to `ahead` before the results are taken; the items are made by the caller."""
    if num_workers == 0:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(num_workers)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(number: int, record: AnyRecord, decode: Decode) -> Slot:
    if isinstance(record, LatentRecord):
        raise ValueError("the file list names cached latents: there is nothing to encode")
    made = record if isinstance(record, BadRecord) else decode(record)
    if isinstance(made, BadRecord):
        return Slot(number, None, None, made)
    assert isinstance(record, Record)
    return Slot(number, record, made)
