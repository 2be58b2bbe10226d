#!/bin/sh
# Train on one device.
#   sh train.sh                 the offline demo: a model that paints what a mask covers anew
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
method=inpainting
. "$root/examples/demo_methods.sh"
prepare_demo conditions 2000
prepare_new conditions 20
new=$demo/new mask=$root/examples/inpainting/images/mask.png
train_demo --train_data_dir "$demo/data" --validation_mask "$mask" \
    --validation_image "$new/000001.jpg" "$new/000009.jpg" "$new/000011.jpg" "$new/000015.jpg"
draw_after --pipeline "$demo/run" --mask "$mask" \
    --image "$new/000001.jpg" "$new/000002.jpg" "$new/000009.jpg" \
    "$new/000011.jpg" "$new/000015.jpg" "$new/000018.jpg" \
    --prompt "a green square on an orange background" "a white triangle on a green background" \
    "a red diamond on a white background" "a yellow circle on a red background" \
    "a blue star on a pink background" "a purple circle on a yellow background"
