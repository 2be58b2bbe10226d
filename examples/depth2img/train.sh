#!/bin/sh
# Train on one device.
#   sh train.sh                 the offline demo: a model that draws the demo's shapes where depth maps say
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
method=depth2img
. "$root/examples/demo_methods.sh"
prepare_demo conditions 2000
prepare_new conditions 20
depths=$demo/new/depths
train_demo --train_data_dir "$demo/data" \
    --validation_depth "$depths/000001.png" "$depths/000009.png" "$depths/000011.png" "$depths/000015.png"
draw_after --pipeline "$demo/run" \
    --depth "$depths/000001.png" "$depths/000002.png" "$depths/000009.png" \
    "$depths/000011.png" "$depths/000015.png" "$depths/000018.png" \
    --prompt "a green square on a white background" "a red triangle on a blue background" \
    "a blue diamond on a yellow background" "a yellow circle on a green background" \
    "a white star on a black background" "a black circle on an orange background"
