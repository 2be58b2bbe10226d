"""Fine-tune Stable Diffusion's UNet (and text encoder) on images with captions. `--help` lists every flag."""

from ppsd.trainers.running import main
from ppsd.trainers.trainer import StableDiffusionTrainer

if __name__ == "__main__":
    main(StableDiffusionTrainer)
