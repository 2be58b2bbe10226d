#!/bin/sh
# Train on one device.
#   sh train.sh                 the offline demo: the demo's model learns what a "sks circle" is, from 5 pictures
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
method=dreambooth
. "$root/examples/demo_methods.sh"
prepare_demo ring 5
train_demo --instance_data_dir "$demo/data" --class_data_dir "$demo/class_images"
draw_demo "a sks circle" "a sks circle" "a sks circle" \
    "a purple circle on a white background" "a red circle on a blue background" "a blue square on a red background"
