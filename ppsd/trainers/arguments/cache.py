"""Flags of latents and text embeddings that are made once."""

from dataclasses import dataclass
from typing import Optional

from ppsd.trainers.arguments.flag import flag


@dataclass
class CacheArguments:
    """Flags of latents and text embeddings that are made once."""

    cache_latents: bool = flag(
        False,
        "Encode the images of a folder or data set once, before training, and keep the latents in memory. Crops are"
        " central; --random_flip works as always.",
    )
    cache_latents_to_disk: bool = flag(
        False,
        "Keep them in files that later runs use; images that have changed, and those for another VAE or size, are"
        " encoded anew.",
    )
    latents_cache_dir: Optional[str] = flag(
        None, "Folder of these files, which runs and machines may share. Default: `cache` in --output_dir."
    )
    vae_batch_size: int = flag(4, "Images that --cache_latents encodes at a time.")
    cache_text_encoder_outputs: bool = flag(
        False, "Encode each caption once, before training, where the text encoder is not trained."
    )
    cache_text_encoder_outputs_to_disk: bool = flag(False, "Keep that in files, too.")

    def __post_init__(self) -> None:
        self.cache_latents = self.cache_latents or self.cache_latents_to_disk
        self.cache_text_encoder_outputs = self.cache_text_encoder_outputs or self.cache_text_encoder_outputs_to_disk
        if self.cache_latents:
            self.center_crop = True

    def check_cache(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        if self.vae_batch_size < 1:
            raise ValueError(f"--vae_batch_size is {self.vae_batch_size}; it must be at least 1")
        on_disk = self.cache_latents_to_disk or self.cache_text_encoder_outputs_to_disk
        if self.latents_cache_dir is not None and not on_disk:
            raise ValueError(
                "--latents_cache_dir: nothing is kept there without --cache_latents_to_disk or"
                " --cache_text_encoder_outputs_to_disk"
            )
        if self.cache_latents and getattr(self, "color_jitter", None):
            raise ValueError("--color_jitter cannot act on latents: leave it or --cache_latents out")
        if self.cache_text_encoder_outputs:
            self._check_captions()

    def _check_captions(self) -> None:
        """What is trained with must be the same in every epoch, or empty."""
        by_chance = {"shuffle_caption": True, "caption_rule": "random"}
        found = [name for name, value in by_chance.items() if getattr(self, name, None) == value]
        found += ["caption_tag_dropout_rate"] if getattr(self, "caption_tag_dropout_rate", 0.0) > 0 else []
        if found:
            raise ValueError(
                f"--{found[0]} makes another caption of it every time: leave it or --cache_text_encoder_outputs out"
            )
