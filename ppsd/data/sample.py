"""Record -> Sample: everything that is done to one example before it is batched."""

from __future__ import annotations

from typing import Callable, Optional, Union

import numpy as np

from ppsd.data.captions import changing_flag, make_caption
from ppsd.data.color import check_jitter, jitter
from ppsd.data.condition_maker import ConditionMaker
from ppsd.data.config import StreamConfig
from ppsd.data.decode import decode_shrunk
from ppsd.data.filters import PIXELS_PER_LATENT
from ppsd.data.jpeg import denominator_for
from ppsd.data.resample import Size, check_interpolation
from ppsd.data.transforms import Crop, choose_crop, cut, is_mirrored, scaled_size
from ppsd.formats.lines import NOT_TEXT
from ppsd.types import BadRecord, LatentRecord, Record, Sample

NO_EMPTY_HIDDEN = "no hidden state of the empty caption"
NO_CONDITIONS = "cached latents without their image's size"

Made = tuple[np.ndarray, dict[str, np.ndarray]]  # pixels or moments, and the conditions


class SampleMaker:
    """Decode, crop and tokenise as `config` says; all chance comes from the seed given with each record.

    Conditions go through the same crop and are among the extras by their names. Raises ValueError where the
    interpolation needs a library that is missing. With settings that change a caption, a record that comes with the
    hidden state of its own is a ValueError, too.
    """

    def __init__(self, config: StreamConfig, tokenize: Callable[[str], np.ndarray]) -> None:
        check_interpolation(config.interpolation)
        check_jitter(config.color_jitter)
        self._config = config
        self._tokenize = tokenize
        self._changing = changing_flag(config)
        self._conditions = ConditionMaker(config)

    def __call__(
        self, record: Union[Record, LatentRecord], seed: int, size: Optional[Size] = None
    ) -> Union[Sample, BadRecord]:
        """A sample, or why the record cannot be one.

        size: width and height of the crop in pixels where the stream has buckets; else it is the square of
        `config.resolution`; latents have their size already. The hidden state of the caption, where the record has it:
        extras["hidden"] float32 [L,D].
        """
        made = self._picture(record, seed, size) if isinstance(record, Record) else self._latents(record, seed, size)
        if isinstance(made, BadRecord):
            return made
        pixels, extras = made
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
        if hidden is not None:
            extras["hidden"] = np.asarray(hidden, np.float32)
        return Sample(pixels=pixels, input_ids=input_ids, seed=seed, extras=extras)

    def _caption(self, record: Union[Record, LatentRecord], seed: int, only_first: bool) -> tuple[str, bool]:
        """The caption to train with, and whether the empty one has taken its place. A hidden state is of the first."""
        if only_first and self._changing:
            raise ValueError(f"{self._changing} cannot act: the data holds what the text encoder made of the captions")
        captions = (record.caption,) if only_first else (record.caption, *record.more_captions)
        return make_caption(captions, self._config, seed)

    def _picture(self, record: Record, seed: int, size: Optional[Size]) -> Union[Made, BadRecord]:
        config = self._config
        bucket = (size or (config.resolution, config.resolution)) if config.enable_bucket else None

        def shrink(width: int, height: int) -> int:
            if not config.scaled_jpeg:
                return 1
            return denominator_for(width, height, *scaled_size(width, height, config.resolution, bucket))

        decoded = decode_shrunk(record.image, config.max_image_pixels, shrink, reuse=True)
        if isinstance(decoded, BadRecord):
            return decoded
        crop = choose_crop(
            (decoded.width, decoded.height),
            seed,
            config.resolution,
            config.center_crop,
            config.random_flip,
            bucket=bucket,
            enlarge=bool(config.upscale_small),
        )
        if isinstance(crop, BadRecord):
            return crop
        scale = 1 / decoded.denominator
        pixels = cut(decoded.array, crop, config.interpolation, (scale, scale))
        extras = self._conditions(record.meta, crop, seed, pixels) if self._conditions else {}
        if isinstance(extras, BadRecord):
            return extras
        return (jitter(pixels, config.color_jitter, seed) if config.color_jitter else pixels), extras

    def _latents(self, record: LatentRecord, seed: int, size: Optional[Size]) -> Union[Made, BadRecord]:
        """Float32 [8,h,w]; of records of several buckets that share a size, the middle."""
        mirrored = record.mirrored if self._config.random_flip and is_mirrored(seed) else None
        moments = np.asarray(record.moments if mirrored is None else mirrored, np.float32)
        extras = self._conditions_of_latents(record, seed, mirrored is not None) if self._conditions else {}
        if isinstance(extras, BadRecord):
            return extras
        if not self._config.enable_bucket or size is None:
            return moments, extras
        extras = {name: _middle(array, size) for name, array in extras.items()}
        return _middle(moments, (size[0] // PIXELS_PER_LATENT, size[1] // PIXELS_PER_LATENT)), extras

    def _conditions_of_latents(
        self, record: LatentRecord, seed: int, mirrored: bool
    ) -> Union[dict[str, np.ndarray], BadRecord]:
        """For the crop that the latents were made of, which was central."""
        if record.image_size is None:
            return BadRecord(NO_CONDITIONS, "conditions cannot be cropped as the image was: train on the images")
        height, width = (side * PIXELS_PER_LATENT for side in record.moments.shape[-2:])
        bucket = (width, height) if self._config.enable_bucket else None
        crop = choose_crop(record.image_size, seed, width, center_crop=True, bucket=bucket, enlarge=True)
        assert isinstance(crop, Crop), "enlarge takes any size"
        return self._conditions(record.meta, crop._replace(mirrored=mirrored), seed, None)


def _middle(array: np.ndarray, size: Size) -> np.ndarray:
    """[C,h,w] -> the middle of it with this width and height."""
    height, width = array.shape[-2:]
    left, top = max(0, width - size[0]) // 2, max(0, height - size[1]) // 2
    return array[:, top : top + size[1], left : left + size[0]]
