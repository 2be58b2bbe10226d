"""Teach Stable Diffusion a word for an object or a style (textual inversion). `--help` lists all flags."""

from ppsd.trainers.running import main
from ppsd.trainers.textual_inversion import TextualInversionTrainer

if __name__ == "__main__":
    main(TextualInversionTrainer)
