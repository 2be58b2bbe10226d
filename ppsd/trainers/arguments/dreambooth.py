"""Flags of DreamBooth."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

from ppsd.trainers.arguments.flag import flag

_PRECISIONS = {"no": None, "fp32": None, "fp16": "float16", "bf16": "bfloat16"}


@dataclass
class DreamBoothArguments:
    """The flags of diffusers' script that are DreamBooth's own."""

    instance_data_dir: Optional[str] = flag(
        None, "Folder of images of the subject, with captions as in --train_data_dir, or with --instance_prompt."
    )
    instance_prompt: Optional[str] = flag(None, 'Caption of images that have none, e.g. "a photo of sks dog".')
    with_prior_preservation: bool = flag(False, "Train on as many images of the class in every step.")
    class_data_dir: Optional[str] = flag(None, "Folder of images of the class; missing ones are drawn before training.")
    class_prompt: Optional[str] = flag(
        None, 'Prompt that class images are drawn from, and their caption, e.g. "a photo of dog".'
    )
    prior_loss_weight: float = flag(1.0, "Weight of the class images' loss; that of the instance images weighs 1.")
    num_class_images: int = flag(100, "Images of the class to train on.")
    sample_batch_size: int = flag(4, "Class images drawn at once.")
    prior_generation_precision: Optional[str] = flag(
        None, "Class images are drawn in fp16, bf16 or fp32 (also: no). Default: fp16 on a GPU, else fp32."
    )

    def check(self, device: str) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        if self.instance_data_dir is None:
            raise ValueError("--instance_data_dir: the folder with images of the subject is needed")
        prior_dtype(self.prior_generation_precision, device)
        for name, least in (("prior_loss_weight", 0), ("num_class_images", 1), ("sample_batch_size", 1)):
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        of_prior = [field for field in fields(self) if not field.name.startswith(("instance_", "with_"))]
        if not self.with_prior_preservation:
            given = [field.name for field in of_prior if getattr(self, field.name) != field.default]
            if given:
                raise ValueError(f"--{given[0]} acts only with --with_prior_preservation: add that, or leave it out")
            return
        for name in ("class_data_dir", "class_prompt"):
            if not getattr(self, name):
                raise ValueError(f"--with_prior_preservation needs --{name}")
        ours, theirs = Path(self.instance_data_dir).resolve(), Path(str(self.class_data_dir)).resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            raise ValueError("--class_data_dir and --instance_data_dir: one lies in the other; give two folders")


def prior_dtype(asked: Optional[str], device: str) -> Optional[str]:
    """What to compute in, where it is not float32. asked: --prior_generation_precision. Raises ValueError."""
    on_cpu = device.startswith("cpu")
    if asked is None:
        return None if on_cpu else "float16"
    if asked not in _PRECISIONS:
        raise ValueError(f"--prior_generation_precision is {asked}; it must be one of {', '.join(_PRECISIONS)}")
    if on_cpu and _PRECISIONS[asked] is not None:
        raise ValueError(f"--prior_generation_precision {asked} needs a GPU: paddle's CPU kernels compute in float32")
    return _PRECISIONS[asked]
