"""Latents and hidden states of image folders and data sets, made once before training: --cache_latents and the like.

Crops are central. With --random_flip both an image and its mirror image are encoded, and each sample takes the one that
its seed would have made of the pixels; the VAE's noise is drawn for each sample, as ever. So a run with them is the run
with --center_crop without them, up to the rounding of sums, and either goes on where the other has stopped.
Each process encodes its share of the images, and all have all of them afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

import paddle
from tqdm import tqdm

from ppsd.data.cached_records import Entry, WithHidden, WithLatents, captions_of, final_caption, undropped
from ppsd.data.captions import CHANGES
from ppsd.data.config import StreamConfig
from ppsd.data.indexed import IndexedSource, measured
from ppsd.data.source import settled
from ppsd.data.tokens import TokenizeCaptions
from ppsd.formats.array_store import ArrayFolder, ArrayMemory, ArrayStore
from ppsd.models.bundle import Bundle
from ppsd.models.conditioning import Conditioning
from ppsd.trainers.folder_cache_exchange import hand_out, share
from ppsd.trainers.folder_cache_latents import LatentFiller
from ppsd.trainers.folder_cache_text import TextFiller
from ppsd.trainers.run import Run
from ppsd.types import BadRecord

logger = logging.getLogger(__name__)

_DECODING_THREADS = 2  # where the flags ask for no data workers
_CAPTIONS_AT_ONCE = 16


def cached_sources(
    run: Run, bundle: Bundle, sources: Sequence[Any], config: StreamConfig, trained: Iterable[str]
) -> tuple[list[Any], StreamConfig]:
    """The sources with what the flags want to be cached, and the settings of the stream over them.

    trained: names of the layers that are trained. Raises ValueError, naming the flag, for what cannot be cached and for
    a folder that cannot be written.
    """
    data = run.data
    if not (data.cache_latents or data.cache_text_encoder_outputs):
        return list(sources), config
    flag = "--cache_latents" if data.cache_latents else "--cache_text_encoder_outputs"
    for source in sources:
        if not isinstance(source, IndexedSource):
            raise ValueError(f"{flag} is for image folders and data sets; for a --file_list run tools/cache_latents.py")
    cached: list[IndexedSource] = list(sources)
    config = settled(config, cached)
    with _named_errors():
        if data.cache_latents:
            if config.enable_bucket:
                cached = [measured(source) for source in cached]
            cached = _with_latents(run, bundle, cached, config)
        if data.cache_text_encoder_outputs:
            cached, config = _with_hidden(run, bundle, cached, config, trained)
    return cached, config


@contextmanager
def _named_errors() -> Iterator[None]:
    """Those of the folder; images that cannot be read are BadRecords."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"--latents_cache_dir (by default in --output_dir): {error}") from error


def _with_latents(
    run: Run, bundle: Bundle, sources: Sequence[IndexedSource], config: StreamConfig
) -> list[IndexedSource]:
    args, data = run.args, run.data
    store = _store(run, "latents", data.cache_latents_to_disk)
    workers = args.dataloader_num_workers or _DECODING_THREADS
    filler = LatentFiller(bundle.vae, config, store, batch_size=data.vae_batch_size, num_workers=workers)
    mine = [_my_share(len(source.records)) for source in sources]
    cached = []
    with _bar(run, "Caching latents", " images", sum(map(len, mine))) as bar:
        found = [filler.fill(source, indices, bar.update) for source, indices in zip(sources, mine)]
    for source, some in zip(sources, found):
        entries: list[Union[Entry, BadRecord]] = [entry for _, entry in sorted(share(some), key=_number)]
        cached.append(replace(source, records=WithLatents(source.records, entries, store)))
    own = [key for some in found for _, entry in some if isinstance(entry, Entry) for key in entry[:2] if key]
    hand_out(store, list(dict.fromkeys(own)))
    _report("latents", "images and mirror images" if config.random_flip else "images", sources, store, filler)
    logger.info("cached latents: all crops are central (--center_crop); the VAE is kept for previews and the export")
    return cached


def _with_hidden(
    run: Run, bundle: Bundle, sources: Sequence[IndexedSource], config: StreamConfig, trained: Iterable[str]
) -> tuple[list[IndexedSource], StreamConfig]:
    data = run.data
    changing = [name for name in trained if name.startswith(("text_encoder", "embeddings"))]
    if changing:
        raise ValueError(f"--cache_text_encoder_outputs: this run trains {changing[0]}, so they do not stay the same")
    store = _store(run, "text", data.cache_text_encoder_outputs_to_disk)
    tokenize = TokenizeCaptions(bundle.tokenizer, config.max_length, config.chunks)
    conditioning = Conditioning(bundle.text_encoder, False, run.model.clip_skip, config.chunks)
    filler = TextFiller(conditioning, bundle.tokenizer, tokenize, store, _CAPTIONS_AT_ONCE)
    captions = {"": None}
    whole = undropped(config)
    for source in sources:
        some = [captions_of(source.records, index) for index in _my_share(len(source.records))]
        captions.update(dict.fromkeys(share([final_caption(found, whole) for found in some if found])))
    distinct = sorted(captions)
    mine = [distinct[i] for i in _my_share(len(distinct))]
    with _bar(run, "Caching captions", " captions", len(mine)) as bar:
        keys = filler.fill(mine, bar.update)
    hidden = dict(share(keys))
    hand_out(store, [key for _, key in keys])
    _report("text", f"{len(hidden)} captions", sources, store, filler)
    cached = [replace(source, records=WithHidden(source.records, config, hidden, store)) for source in sources]
    unchanged: dict[str, Any] = {"caption_rule": "first", **CHANGES}
    return cached, replace(config, **unchanged)


def _store(run: Run, name: str, on_disk: bool) -> ArrayStore:
    if not on_disk:
        return ArrayMemory()
    folder = Path(run.data.latents_cache_dir or Path(run.args.output_dir, "cache"))
    store = ArrayFolder(folder / name)
    store.remove_abandoned()
    return store


def _my_share(count: int) -> range:
    return range(paddle.distributed.get_rank(), count, paddle.distributed.get_world_size())


def _number(item: tuple[int, Any]) -> int:
    return item[0]


def _bar(run: Run, what: str, unit: str, count: int) -> Any:
    return tqdm(total=count, desc=what, unit=unit, disable=run.args.disable_tqdm or paddle.distributed.get_rank() > 0)


def _report(
    what: str,
    items: str,
    sources: Sequence[IndexedSource],
    store: ArrayStore,
    filler: Union[LatentFiller, TextFiller],
) -> None:
    records = sum(len(source.records) for source in sources)
    made = f"{filler.written} arrays of {filler.bytes / 1e6:.1f} MB encoded now by this process"
    if isinstance(store, ArrayMemory):
        held: Optional[int] = sum(array.nbytes for array in store.arrays.values())
        where = f"{held / 1e6:.1f} MB in the memory of each process" if held else "nothing in memory"
    else:
        assert isinstance(store, ArrayFolder)
        where = f"in {store.folder}"
    logger.info("cached %s of %d records (%s): %s; %s", what, records, items, where, made)
