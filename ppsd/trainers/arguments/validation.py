"""Flags of what shows how good the model is by now (pictures, the loss of held-out records) and of saving by epochs."""

from dataclasses import dataclass
from typing import Optional

from ppsd.sampling.prompts import Prompt, read_prompts
from ppsd.trainers.arguments.flag import flag
from ppsd.trainers.due import Every

PREVIEW_STEPS = 1000
LOSS_STEPS = 500


@dataclass
class ValidationArguments:
    """Flags of previews, of the held-out loss, and of saving by epochs."""

    validation_steps: Optional[int] = flag(
        None, "Measure the held-out loss and draw previews every so many steps. Default: 500 and 1000."
    )
    validation_epochs: Optional[int] = flag(None, "The same every so many epochs (instead, or as well).")
    validation_split: float = flag(
        0.0, "Share of the records that is never trained on. Their loss tells over-fitting from noise."
    )
    max_validation_samples: int = flag(64, "So many of these records are measured, each at 4 timesteps or more.")
    image_logging_steps: Optional[int] = flag(
        None, "Previews alone: every so many steps; -1 never. kohya's sample_every_n_steps."
    )
    sample_every_n_epochs: Optional[int] = flag(None, "Previews alone: every so many epochs.")
    validation_prompts: Optional[list[str]] = flag(
        None, "Prompts of the previews. Default: the first batch's captions."
    )
    sample_prompts: Optional[str] = flag(
        None, "A file of them, one a line, with kohya's options n, w, h, d, l, s (see ppsd.sampling.prompts)."
    )
    num_validation_images: int = flag(1, "Pictures of each prompt.")
    guidance_scale: float = flag(7.5, "Guidance of the previews.")
    save_every_n_epochs: Optional[int] = flag(None, "Save a checkpoint every so many epochs, too (see --save_steps).")

    def check_validation(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        if not 0 <= self.validation_split < 1:
            raise ValueError(f"--validation_split is {self.validation_split}; it must be at least 0 and below 1")
        for name in ("max_validation_samples", "num_validation_images", *_PERIODS):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; it must be at least 1")
        if self.validation_prompts and self.sample_prompts:
            raise ValueError("--validation_prompts and --sample_prompts both say what to draw; give one of them")
        self.prompts()

    def check_epochs(self, known: bool) -> None:
        """known: whether it is known how many records an epoch has. Raises ValueError where a flag needs it."""
        for name in ("validation_epochs", "sample_every_n_epochs", "save_every_n_epochs"):
            if getattr(self, name) and not known:
                raise ValueError(f"--{name}: a stream has no known length; say with --num_records what an epoch is")

    def prompts(self) -> list[Prompt]:
        """What the flags say; empty where they say nothing. Raises what `read_prompts` raises."""
        if self.sample_prompts:
            return read_prompts(self.sample_prompts, "--sample_prompts")
        return [Prompt(text) for text in self.validation_prompts or []]

    def preview_period(self, epoch_steps: Optional[int]) -> Every:
        """The previews' own flags come before those that they share; without any, every PREVIEW_STEPS steps."""
        steps, epochs = self.image_logging_steps, self.sample_every_n_epochs
        if steps is None and epochs is None:
            steps, epochs = self.validation_steps, self.validation_epochs
        return Every(PREVIEW_STEPS if steps is None and epochs is None else steps, epochs, epoch_steps)

    def loss_period(self, epoch_steps: Optional[int]) -> Every:
        steps, epochs = self.validation_steps, self.validation_epochs
        return Every(LOSS_STEPS if steps is None and epochs is None else steps, epochs, epoch_steps)


_PERIODS = ("validation_steps", "validation_epochs", "sample_every_n_epochs", "save_every_n_epochs")
