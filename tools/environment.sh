# Sourced by the scripts: sets `python` to an interpreter that has ppsd, installing it into .venv where none has.
# extra=test before sourcing asks for the linters and the test runner too.
# An environment that already has ppsd (AI Studio, your own venv) is used as it is.

root=${root:?set root to the repository before sourcing this file}

has_ppsd() { # asked from /, so that the checkout itself does not count as installed
    (cd / && "$1" - "$2" <<'EOF'
import sys
from importlib.util import find_spec
wanted = ["ppsd", "paddle", "paddlenlp", "ppdiffusers"]
if sys.argv[1] == "test":
    wanted += ["pytest", "xdist", "pytest_timeout", "ruff", "mypy", "skimage", "sklearn"]
sys.exit(not all(map(find_spec, wanted)))
EOF
    ) 2>/dev/null
}

right_version() {
    "$1" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

make_venv() { # with the interpreter $1 and the extra $2
    if nvidia-smi -L >/dev/null 2>&1; then device=gpu; else device=cpu; fi
    python=$root/.venv/bin/python
    version=$(cksum <"$root/setup.py" | cut -d' ' -f1)
    if "$python" -c '' 2>/dev/null; then
        [ -f "$root/.venv/.installed-$device,test-$version" ] && return
        [ "$2" != test ] && [ -f "$root/.venv/.installed-$device-$version" ] && return
    fi
    extras=$device${2:+,$2}
    echo "Installing ppsd[$extras] into $root/.venv (about two minutes) ..." >&2
    "$1" -m venv --clear "$root/.venv"
    "$python" -m pip install --quiet --disable-pip-version-check -e "$root[$extras]" >&2
    touch "$root/.venv/.installed-$extras-$version"
}

find_python() { # for the extra $1
    base=
    for name in python python3 python3.12 python3.11 python3.10 python3.9; do
        found=$(command -v "$name") || continue
        right_version "$found" || continue
        base=${base:-$found}
        has_ppsd "$found" "$1" || continue
        python=$found
        return
    done
    if [ -z "$base" ]; then
        echo "ppsd needs Python 3.9 to 3.12, and there is none on the PATH" >&2
        exit 1
    fi
    make_venv "$base" "$1"
}

find_python "${extra:-}"
export PYTHONUNBUFFERED=1
# MKL takes a slow path on AMD processors unless told otherwise (a tiny UNet's step: 289 -> 220 ms)
if [ -z "${MKL_DEBUG_CPU_TYPE:-}" ] && grep -q AuthenticAMD /proc/cpuinfo 2>/dev/null; then
    export MKL_DEBUG_CPU_TYPE=5
fi
# this checkout's code runs, also where another checkout of ppsd is the installed one
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
