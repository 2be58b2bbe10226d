"""Flags of which data are read: file lists, image folders, or Hugging Face data sets on a disk."""

from dataclasses import dataclass
from typing import Optional

from ppsd.trainers.arguments.flag import flag

DEFAULT_LIST = "./data/filelist/train.filelist.list"


@dataclass
class FolderArguments:
    """Flags of which data are read: file lists, image folders, or Hugging Face data sets on a disk."""

    file_list: Optional[str] = flag(
        None, f"A .filelist.list (filelists, optionally weighted) or one .filelist. Default: {DEFAULT_LIST}"
    )
    train_data_dir: Optional[str] = flag(
        None, "Folder of images with metadata.jsonl or .csv, captions in IMAGE.txt or .caption, or folders `10_a dog`."
    )
    dataset_name: Optional[str] = flag(
        None, "Folder of a Hugging Face data set (save_to_disk or downloaded), or a .parquet or .arrow file."
    )
    dataset_config_name: Optional[str] = flag(None, "Which of the configurations that its README.md names.")
    dataset_repeats: int = flag(1, "How often an epoch has each image of a folder, besides what `10_a dog` says.")
    max_train_samples: Optional[int] = flag(None, "Use only so many images of the folder or data set; --seed chooses.")
    color_jitter: float = flag(
        0.0, "Random brightness, contrast and saturation: up to this share more or less; hue: a quarter of it."
    )
    upscale_small: Optional[bool] = flag(
        None, "Enlarge images that are smaller than --resolution. Default: only those of folders and data sets."
    )

    def __post_init__(self) -> None:
        if self.file_list is None and self.train_data_dir is None and self.dataset_name is None:
            self.file_list = DEFAULT_LIST

    def check_folder(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        named = [name for name in ("file_list", "train_data_dir", "dataset_name") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"--{' and --'.join(named)} both say which data to read; give one of them")
        if self.dataset_config_name is not None and self.dataset_name is None:
            raise ValueError("--dataset_config_name is for --dataset_name")
        for name in ("dataset_repeats", "max_train_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1")
        if not 0 <= self.color_jitter <= 2:
            raise ValueError(f"--color_jitter is {self.color_jitter}; it must be between 0 and 2")
        data_format = getattr(self, "data_format", "auto")
        if self.file_list is None and data_format not in ("auto", "image_folder"):
            raise ValueError(f"--data_format {data_format} is for --file_list; leave it out")
