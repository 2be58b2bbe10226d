#!/bin/sh
# Train on one device.
#   sh train.sh                 the offline demo: makes its data, trains a tiny UNet from random weights, draws a grid
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
asked=$#
[ "$asked" -gt 0 ] || . "$root/examples/stable_diffusion/demo.sh"
set -- "$root/examples/stable_diffusion/train_txt2img_laion400m_trainer.py" "$@"
[ "$asked" -eq 0 ] || exec "$python" "$@" # in place of the shell, so that signals reach it
"$python" "$@"
draw_demo
