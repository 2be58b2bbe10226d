"""Learn a new token for an object or a style from a few images. `--help` lists every flag."""

from ppsd.trainers.textual_inversion import main

if __name__ == "__main__":
    main()
