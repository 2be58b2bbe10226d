"""Flags of what the stream reads."""

from dataclasses import dataclass
from typing import Optional

from ppsd.trainers.arguments.cache import CacheArguments
from ppsd.trainers.arguments.captions import CaptionArguments
from ppsd.trainers.arguments.flag import flag
from ppsd.trainers.arguments.folder import FolderArguments


@dataclass
class DataArguments(FolderArguments, CaptionArguments, CacheArguments):
    """What the stream reads."""

    data_format: str = flag(
        "auto",
        "What the parts are: laion400m, laion_aes, webdataset, parquet, image_folder, latents, or auto (by content).",
    )
    num_records: Optional[int] = flag(
        None, "Records an epoch, for --num_train_epochs and epoch reports. Default: the stream is endless."
    )
    buffer_size: int = flag(100, "Undecoded records a lane shuffles at a time. Order is seeded, so any size repeats.")
    shuffle_every_n_samples: int = flag(
        5, "0: the records of a part keep their order. Any other value: each window of --buffer_size is shuffled whole."
    )
    shuffle_buffer_mb: float = flag(256.0, "MiB of undecoded records that the lanes of all devices hold at most.")
    interpolation: str = flag(
        "lanczos", "nearest, bilinear, bicubic, lanczos, box, hamming, area (faster) or lanczos_simd (pip: ppsd[simd])."
    )
    scaled_jpeg: bool = flag(False, "Decode JPEGs of twice the size and more at a reduced scale: faster, less exact.")
    num_lanes: Optional[int] = flag(
        None, "Parallel lanes of the stream, a multiple of the devices. The order depends on it. Default: by the data."
    )
    center_crop: bool = flag(False, "Crop the centre instead of a random place.")
    random_flip: bool = flag(False, "Mirror half of the images.")
    image_column: Optional[str] = flag(
        None, "Column of the image in webdataset, parquet or folder data. Default: the usual."
    )
    caption_column: Optional[str] = flag(None, "Column of the caption there. Default: the usual ones.")
    filter: Optional[str] = flag(
        None, 'Which records are used, e.g. "width>=512 and pwatermark<0.8". The others are counted by condition.'
    )
    enable_bucket: bool = flag(False, "Crop to the nearest of several aspect ratios instead of to squares.")
    min_bucket_reso: int = flag(256, "Shortest side of a bucket, in pixels.")
    max_bucket_reso: int = flag(1024, "Longest side of a bucket, in pixels.")
    bucket_reso_steps: int = flag(64, "Sides of buckets are multiples of it, which is a multiple of 8.")
    bucket_no_upscale: bool = flag(False, "Small images go to buckets of their own size instead of being enlarged.")
    check_data: str = flag("quick", "Before training: quick (a sample), full (every record) or off.")
    data_cache_dir: Optional[str] = flag(None, "Folder that keeps parts read from URLs. Default: they are not kept.")
    data_cache_gb: float = flag(20.0, "Size limit of --data_cache_dir; the parts used longest ago are deleted.")

    def __post_init__(self) -> None:
        FolderArguments.__post_init__(self)
        CacheArguments.__post_init__(self)
