#!/bin/sh
# Train on every GPU of this machine (two processes on the CPU where there is no GPU).
#   sh train_multi_gpu.sh                                      the offline demo
#   sh train_multi_gpu.sh --flag ...                           the trainer with these flags
#   sh train_multi_gpu.sh --gpus 0,1 -- --flag ...             options of paddle.distributed.launch before the --
# The default launch options are in configs/launch/.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
if nvidia-smi -L >/dev/null 2>&1; then options=multi_gpu; else options=cpu; fi
. "$root/examples/stable_diffusion/launch.sh"
