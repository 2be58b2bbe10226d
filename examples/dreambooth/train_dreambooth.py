"""Teach Stable Diffusion a subject from a few images of it (DreamBooth). `--help` lists every flag."""

from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.running import main

if __name__ == "__main__":
    main(DreamBoothTrainer)
