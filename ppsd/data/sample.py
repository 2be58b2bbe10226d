"""Record -> Sample: everything that is done to one example before it is batched."""

from __future__ import annotations

from typing import Callable, Union

import numpy as np

from ppsd.data.captions import drop_caption
from ppsd.data.config import StreamConfig
from ppsd.data.decode import decode_image
from ppsd.data.transforms import training_crop
from ppsd.formats.lines import NOT_TEXT
from ppsd.types import BadRecord, Record, Sample


class SampleMaker:
    """Decode, crop and tokenise as `config` says; all chance comes from the seed given with each record."""

    def __init__(self, config: StreamConfig, tokenize: Callable[[str], np.ndarray]) -> None:
        self._config = config
        self._tokenize = tokenize

    def __call__(self, record: Record, seed: int, size: tuple[int, int] = (0, 0)) -> Union[Sample, BadRecord]:
        """A sample, or why the record cannot be one."""
        config = self._config
        image = decode_image(record.image, config.max_image_pixels)
        if isinstance(image, BadRecord):
            return image
        pixels = training_crop(
            image, seed, config.resolution, config.interpolation, config.center_crop, config.random_flip
        )
        if isinstance(pixels, BadRecord):
            return pixels
        try:
            input_ids = self._tokenize(drop_caption(record.caption, config.caption_dropout_rate, seed))
        except UnicodeEncodeError as error:
            return BadRecord(NOT_TEXT, str(error))
        return Sample(pixels=pixels, input_ids=input_ids, seed=seed)
