"""Train a model that draws what is as near as a depth map says. `--help` lists every flag."""

from ppsd.trainers.depth import DepthTrainer
from ppsd.trainers.running import main

if __name__ == "__main__":
    main(DepthTrainer)
