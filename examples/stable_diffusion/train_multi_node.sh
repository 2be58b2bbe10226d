#!/bin/sh
# Train on several machines: run the same command on each of them.
#   sh train_multi_node.sh --ips 10.0.0.1,10.0.0.2 -- --flag ...
#   sh train_multi_node.sh --master 10.0.0.1:8090 --nnodes 2 -- --flag ...       (--rank 0 on the first, 1 on the second)
# Before the -- are options of paddle.distributed.launch (defaults in configs/launch/), after it the trainer's flags.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tools/environment.sh"
if nvidia-smi -L >/dev/null 2>&1; then options=multi_node; else options=cpu_multi_node; fi
. "$root/examples/stable_diffusion/launch.sh"
