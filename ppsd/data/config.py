"""What the data stream is told: a plain dataclass, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ppsd.data.captions import RULES, check_captions
from ppsd.data.conditions import check_conditions
from ppsd.data.decode import MAX_IMAGE_PIXELS
from ppsd.data.masks import COVERAGE
from ppsd.data.tokens import chunks_of
from ppsd.data.transforms import INTERPOLATIONS
from ppsd.formats.parts import DATA_FORMATS

_COUNTS = ("dataset_repeats", "max_train_samples")


@dataclass(frozen=True)
class StreamConfig:
    """Which records to read and how to make samples of them. Raises ValueError naming the flag that is wrong.

    file_list: a `.filelist.list` or a `.filelist`; dialect: what its parts are, of DATA_FORMATS. Instead of it either
    train_data_dir (a folder of images) or dataset_name (of a Hugging Face data set) and dataset_config_name; of these
    every epoch has dataset_repeats times each image, max_train_samples: at most so many, chosen by the seed.
    resolution: side of the square crops in pixels, divisible by 8.
    scaled_jpeg: decode large JPEGs at 1/2, 1/4 or 1/8 of their size (see ppsd.data.jpeg).
    buffer_size: undecoded records that a lane holds to shuffle among. All lanes of all devices together hold
    num_lanes x buffer_size of them, but not more than shuffle_buffer_mb.
    shuffle_every_n_samples: 0 keeps the order of the files within a lane; any other number shuffles. A window of
    buffer_size records is shuffled whole and given out whole, so shuffling it more often would change nothing.
    num_lanes: see ppsd.data.lane; None chooses (see default_lanes there), or takes over that of a resumed run.
    num_records: samples that an epoch has over all devices; None: an epoch without end.
    shuffle_buffer_mb: MiB of undecoded records that all lanes of all devices together hold at most.
    image_column, caption_column: names in webdataset, parquet and image folder data; None: the usual ones.
    caption_rule: which of a record's captions is used (see ppsd.data.captions).
    caption_prefix, trigger_words, undesired_tags, shuffle_caption, keep_tokens, caption_tag_dropout_rate: what else is
    done to it (see there). trigger_words and undesired_tags are separated by commas.
    max_length: ids of a caption with both ends, or of each of its chunks. max_token_length: 150 or 225 for two or three
    chunks (see ppsd.data.tokens).
    filter: which records are used (see ppsd.data.filters).
    enable_bucket ... bucket_no_upscale: aspect-ratio buckets (see ppsd.data.buckets).
    alternate: the sources take turns, one sample each (a batch each, with buckets), whatever their weights.
    color_jitter: see ppsd.data.color. upscale_small: enlarge images below the resolution, where buckets do not; None:
    if all data are indexed.
    latents: the fingerprint of cached latents, where that is what the parts are: any other part is an error.
    conditions: what a sample has beside its picture, of ppsd.data.conditions.COLUMNS. It comes from the columns that
    conditioning_image_column, mask_column and depth_column name (None: the usual ones); where a record has none under
    the usual name, `annotator` (see ppsd.data.annotators; annotator_model: its network, where it is one) makes
    conditioning and depth of the crop, and masks are drawn: of mask_kinds (separated by commas), mask_coverage of the
    picture on average (see ppsd.data.masks). Neither the order nor a crop depends on them, unless shuffle_buffer_mb
    limits what is shuffled: their bytes count.
    """

    file_list: str = ""
    dialect: str = "auto"
    resolution: int = 512
    interpolation: str = "lanczos"
    scaled_jpeg: bool = False
    center_crop: bool = False
    random_flip: bool = False
    caption_dropout_rate: float = 0.1
    buffer_size: int = 100
    shuffle_every_n_samples: int = 5
    num_lanes: Optional[int] = None
    num_records: Optional[int] = None
    max_length: int = 77
    max_image_pixels: int = MAX_IMAGE_PIXELS
    shuffle_buffer_mb: float = 256.0
    image_column: Optional[str] = None
    caption_column: Optional[str] = None
    caption_rule: str = "first"
    filter: Optional[str] = None
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    latents: Optional[Mapping[str, Any]] = None
    caption_prefix: Optional[str] = None
    trigger_words: Optional[str] = None
    undesired_tags: Optional[str] = None
    shuffle_caption: bool = False
    keep_tokens: int = 0
    caption_tag_dropout_rate: float = 0.0
    max_token_length: Optional[int] = None
    alternate: bool = False
    train_data_dir: Optional[str] = None
    dataset_name: Optional[str] = None
    dataset_config_name: Optional[str] = None
    dataset_repeats: int = 1
    max_train_samples: Optional[int] = None
    color_jitter: float = 0.0
    upscale_small: Optional[bool] = None
    conditions: tuple[str, ...] = ()
    conditioning_image_column: Optional[str] = None
    mask_column: Optional[str] = None
    depth_column: Optional[str] = None
    annotator: Optional[str] = None
    annotator_model: Optional[str] = None
    mask_kinds: Optional[str] = None
    mask_coverage: float = COVERAGE

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution % 8:
            near = max(8, round(self.resolution / 8) * 8)
            raise ValueError(f"--resolution {self.resolution} is not divisible by 8: {near} would be")
        if self.dialect not in DATA_FORMATS:
            raise ValueError(f"--data_format {self.dialect!r} is not one of {', '.join(DATA_FORMATS)}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"--interpolation {self.interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
        check_captions(self)
        chunks_of(self.max_token_length, self.max_length)
        if self.shuffle_every_n_samples < 0:
            raise ValueError(
                f"--shuffle_every_n_samples {self.shuffle_every_n_samples} is negative; 0 does not shuffle"
            )
        for flag in ("buffer_size", "num_lanes", "num_records", "max_length", "max_image_pixels", *_COUNTS):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise ValueError(f"--{flag} {value} is less than 1")
        if not self.shuffle_buffer_mb > 0:
            raise ValueError(f"--shuffle_buffer_mb {self.shuffle_buffer_mb} is not above 0")
        if self.caption_rule not in RULES:
            raise ValueError(f"--caption_rule {self.caption_rule!r} is not one of {', '.join(RULES)}")
        check_conditions(self)
        if self.enable_bucket:
            self._check_buckets()

    @property
    def chunks(self) -> int:
        """Into how many runs of max_length ids a caption goes."""
        return chunks_of(self.max_token_length, self.max_length)

    @property
    def longest_caption(self) -> int:
        """Tokens with both ends; of a longer caption the rest is cut."""
        return self.chunks * (self.max_length - 2) + 2

    def _check_buckets(self) -> None:
        shortest, longest, steps = self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps
        if steps < 8 or steps % 8:
            raise ValueError(f"--bucket_reso_steps {steps} is not a multiple of 8")
        for flag in ("min_bucket_reso", "max_bucket_reso", "resolution"):
            value = getattr(self, flag)
            if value < steps or value % steps:
                raise ValueError(f"--{flag} {value} is not a multiple of --bucket_reso_steps {steps}")
        if not shortest <= self.resolution <= longest:
            raise ValueError(
                f"--resolution {self.resolution} is not between"
                f" --min_bucket_reso {shortest} and --max_bucket_reso {longest}"
            )
