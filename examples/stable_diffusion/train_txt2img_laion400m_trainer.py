"""Train Stable Diffusion's UNet (and text encoder) on LAION-format part files. `--help` lists every flag."""

from ppsd.trainers.pretrain import main

if __name__ == "__main__":
    main()
