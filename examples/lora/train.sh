#!/bin/sh
# Train on one device.
#   sh train.sh                 the offline demo: a LoRA for the demo's model, with which it draws striped shapes
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
method=lora
. "$root/examples/demo_methods.sh"
prepare_demo stripes 500
train_demo --train_data_dir "$demo/data"
draw_demo "a red circle on a blue background" "a blue circle on a red background" \
    "a yellow square on a green background" "a green square on a yellow background" \
    "a white triangle on a black background" "a black triangle on a white background"
