#!/bin/sh
# Make the virtual environment ready for one of: demo, test, dev. Usage: sh scripts/bootstrap.sh LEVEL
#
# Finds a Python that is new enough, also where `python3` is not. When everything is in place it returns at once.
#   UQMS_PYTHON  the Python to build with, instead of searching
#   UQMS_VENV    where the environment is (default: .venv beside this project's pyproject.toml)
set -eu

level=${1:?which level: demo, test or dev}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=${UQMS_VENV:-$(dirname -- "$here")/.venv}

# By running it, not by its name: a version manager's shim may stand on PATH and fail. At most $2 (exclusive).
usable() {
    "$1" -c "import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, $2))" >/dev/null 2>&1 </dev/null
}

candidates() {
    for name in python3 python3.13 python3.12 python3.14 python; do
        old_ifs=$IFS
        IFS=:
        for folder in $PATH; do
            if [ -x "$folder/$name" ]; then echo "$folder/$name"; fi
        done
        IFS=$old_ifs
    done
    places=${UQMS_PYTHON_PLACES-"/usr/bin /usr/local/bin /opt/*/bin /opt/homebrew/bin $HOME/.pyenv/versions/*/bin
        $HOME/.local/share/uv/python/*/bin $HOME/.local/bin $HOME/miniconda3/bin $HOME/miniforge3/bin"}
    for folder in $places; do
        for name in python3.13 python3.12 python3.14 python3; do
            if [ -x "$folder/$name" ]; then echo "$folder/$name"; fi
        done
    done
}

# The versions that are known to have all dependencies come first; a newer one is the last resort.
find_python() {
    for below in 15 99; do
        found=$(candidates | while IFS= read -r each; do
            if usable "$each" "$below"; then
                echo "$each"
                break
            fi
        done)
        if [ -n "$found" ]; then
            echo "$found"
            return
        fi
    done
}

if [ -n "${UQMS_PYTHON:-}" ]; then
    python=$(command -v "$UQMS_PYTHON" || echo "$UQMS_PYTHON")
    if ! usable "$python" 99; then
        echo "uqms: UQMS_PYTHON is '$UQMS_PYTHON', which is not a Python 3.12 or newer with the modules venv and ensurepip." >&2
        echo "      Set it to one that is, or unset it to search." >&2
        exit 1
    fi
else
    # The common case: what was built is as it should be.
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" "$here/environment.py" "$level" "$venv" --check 2>/dev/null; then
        exit 0
    fi
    python=$(find_python)
    if [ -z "$python" ]; then
        seen=$(candidates | sort -u | while IFS= read -r each; do
            echo "        $each: $("$each" -V 2>&1 </dev/null | head -n 1 || true)"
        done)
        echo "uqms: no suitable Python was found; it needs Python 3.12 or newer with the modules venv and ensurepip." >&2
        echo "      Looked at:" >&2
        echo "${seen:-        (nothing that is called python)}" >&2
        echo "      Install one (system package python3.13 with python3.13-venv, pyenv, uv or conda), or name it:" >&2
        echo "        UQMS_PYTHON=/path/to/python3.13 make demo" >&2
        exit 1
    fi
fi
exec "$python" "$here/environment.py" "$level" "$venv"
