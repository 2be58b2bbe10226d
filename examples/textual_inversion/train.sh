#!/bin/sh
# Train on one device.
#   sh train.sh                 the offline demo: "<toy>" becomes the word for what 5 pictures show
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
method=textual_inversion
. "$root/examples/demo_methods.sh"
prepare_demo star 5
train_demo --train_data_dir "$demo/data"
draw_demo "a <toy>" "the <toy>" "a photo of a <toy>" "a picture of a <toy>"
