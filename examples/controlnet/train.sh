#!/bin/sh
# Train on one device.
#   sh train.sh                 the offline demo: a ControlNet that puts the demo's shapes where outlines say
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
method=controlnet
. "$root/examples/demo_methods.sh"
prepare_demo conditions 2000
prepare_new conditions 20
outlines=$demo/new/outlines
train_demo --train_data_dir "$demo/data" \
    --validation_image "$outlines/000001.png" "$outlines/000009.png" "$outlines/000011.png" "$outlines/000015.png"
draw_after --pipeline "$base" --controlnet none --controlnet "$demo/run" \
    --image "$outlines/000001.png" "$outlines/000002.png" "$outlines/000009.png" \
    "$outlines/000011.png" "$outlines/000015.png" "$outlines/000018.png" \
    --prompt "a green square on a white background" "a red triangle on a blue background" \
    "a blue diamond on a yellow background" "a yellow circle on a green background" \
    "a white star on a black background" "a black circle on an orange background"
