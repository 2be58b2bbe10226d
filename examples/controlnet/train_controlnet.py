"""Train a ControlNet or a T2I-Adapter for a model that draws. `--help` lists every flag."""

from ppsd.trainers.controlnet import ControlNetTrainer
from ppsd.trainers.running import main

if __name__ == "__main__":
    main(ControlNetTrainer)
