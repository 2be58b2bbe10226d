"""Record -> Sample: everything that is done to one example before it is batched."""

from __future__ import annotations

from typing import Callable, Optional, Union

import numpy as np

from ppsd.data.captions import changing_flag, make_caption
from ppsd.data.color import check_jitter, jitter
from ppsd.data.config import StreamConfig
from ppsd.data.decode import decode_shrunk
from ppsd.data.filters import PIXELS_PER_LATENT
from ppsd.data.jpeg import denominator_for
from ppsd.data.resample import Size, check_interpolation
from ppsd.data.transforms import is_mirrored, scaled_size, training_crop
from ppsd.formats.lines import NOT_TEXT
from ppsd.types import BadRecord, LatentRecord, Record, Sample

NO_EMPTY_HIDDEN = "no hidden state of the empty caption"


class SampleMaker:
    """Decode, crop and tokenise as `config` says; all chance comes from the seed given with each record.

    Raises ValueError where the interpolation needs a library that is missing. With settings that change a caption, a
    record that comes with the hidden state of its own is a ValueError, too.
    """

    def __init__(self, config: StreamConfig, tokenize: Callable[[str], np.ndarray]) -> None:
        check_interpolation(config.interpolation)
        check_jitter(config.color_jitter)
        self._config = config
        self._tokenize = tokenize
        self._changing = changing_flag(config)

    def __call__(
        self, record: Union[Record, LatentRecord], seed: int, size: Optional[Size] = None
    ) -> Union[Sample, BadRecord]:
        """A sample, or why the record cannot be one.

        size: width and height of the crop in pixels where the stream has buckets; else it is the square of
        `config.resolution`; latents have their size already. The hidden state of the caption, where the record has it:
        extras["hidden"] float32 [L,D].
        """
        pixels = self._pixels(record, seed, size) if isinstance(record, Record) else self._moments(record, seed, size)
        if isinstance(pixels, BadRecord):
            return pixels
        hidden = record.hidden
        caption, dropped = self._caption(record, seed, only_first=hidden is not None)
        if hidden is not None and dropped:
            hidden = record.meta.get("empty_hidden")
            if hidden is None:
                return BadRecord(NO_EMPTY_HIDDEN, "its caption was to be dropped")
        try:
            input_ids = self._tokenize(caption)
        except UnicodeEncodeError as error:
            return BadRecord(NOT_TEXT, str(error))
        extras = {} if hidden is None else {"hidden": np.asarray(hidden, np.float32)}
        return Sample(pixels=pixels, input_ids=input_ids, seed=seed, extras=extras)

    def _caption(self, record: Union[Record, LatentRecord], seed: int, only_first: bool) -> tuple[str, bool]:
        """The caption to train with, and whether the empty one has taken its place. A hidden state is of the first."""
        if only_first and self._changing:
            raise ValueError(f"{self._changing} cannot act: the data holds what the text encoder made of the captions")
        captions = (record.caption,) if only_first else (record.caption, *record.more_captions)
        return make_caption(captions, self._config, seed)

    def _pixels(self, record: Record, seed: int, size: Optional[Size]) -> Union[np.ndarray, BadRecord]:
        config = self._config
        bucket = (size or (config.resolution, config.resolution)) if config.enable_bucket else None

        def shrink(width: int, height: int) -> int:
            if not config.scaled_jpeg:
                return 1
            return denominator_for(width, height, *scaled_size(width, height, config.resolution, bucket))

        decoded = decode_shrunk(record.image, config.max_image_pixels, shrink, reuse=True)
        if isinstance(decoded, BadRecord):
            return decoded
        crop = training_crop(
            decoded.array,
            seed,
            config.resolution,
            config.interpolation,
            config.center_crop,
            config.random_flip,
            bucket=bucket,
            image_size=(decoded.width, decoded.height),
            denominator=decoded.denominator,
            enlarge=bool(config.upscale_small),
        )
        if config.color_jitter and not isinstance(crop, BadRecord):
            return jitter(crop, config.color_jitter, seed)
        return crop

    def _moments(self, record: LatentRecord, seed: int, size: Optional[Size]) -> np.ndarray:
        """Float32 [8,h,w]; of records of several buckets that share a size, the middle."""
        mirrored = record.mirrored if self._config.random_flip and is_mirrored(seed) else None
        moments = np.asarray(record.moments if mirrored is None else mirrored, np.float32)
        if not self._config.enable_bucket or size is None:
            return moments
        (width, height), (h, w) = (side // PIXELS_PER_LATENT for side in size), moments.shape[-2:]
        top, left = max(0, h - height) // 2, max(0, w - width) // 2
        return moments[:, top : top + height, left : left + width]
