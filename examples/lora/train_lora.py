"""Train a LoRA (or LoCon, LoHa, LoKr) on images with captions, or of one subject. `--help` lists every flag."""

from ppsd.trainers.lora import LoRATrainer
from ppsd.trainers.running import main

if __name__ == "__main__":
    main(LoRATrainer)
