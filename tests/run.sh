#!/bin/sh
# Lint, types and tests, in an environment that is made if it is not there. Extra words go to pytest.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
extra=test
. "$root/tools/environment.sh"
cd "$root"
export OMP_NUM_THREADS=1
"$python" -m pip check
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m pytest -n 2 --dist loadfile "$@"
