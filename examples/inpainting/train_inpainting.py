"""Train a model that paints masked regions anew, on any images or those of one subject. `--help` lists every flag."""

from ppsd.trainers.inpainting import InpaintingTrainer
from ppsd.trainers.running import main

if __name__ == "__main__":
    main(InpaintingTrainer)
