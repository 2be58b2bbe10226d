#!/bin/sh
# Train on one device.
#   sh train.sh --flag ...      the trainer with exactly these flags (sh train.sh --help lists them)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ "$#" -eq 0 ]; then
    echo "train.sh: give the trainer's flags; $root/examples/textual_inversion/README.md has commands to begin with" >&2
    exit 2
fi
. "$root/tools/environment.sh"
exec "$python" "$root/examples/textual_inversion/train_textual_inversion.py" "$@" # in place of the shell, so that signals reach it
