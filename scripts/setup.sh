#!/usr/bin/env bash
# Create a virtual environment and install akgp with its pinned packages into it, editable.
# usage: scripts/setup.sh VENV EXTRAS PYTHON...   (the first PYTHON that is new enough is taken)
set -euo pipefail
venv=$1 extras=$2
shift 2

if [ ! -x "$venv/bin/python" ]; then
    for python in "$@"; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        python=
    done
    [ -n "${python:-}" ] || { echo "setup: no Python 3.11 or newer among: $*" >&2; exit 1; }
    echo "setup: creating $venv with $("$python" --version)"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv/bin"  # what it leaves behind would be taken for an environment
        echo "setup: $python cannot create environments; on Debian: apt install python3-venv" >&2
        exit 1
    fi
fi

log=$venv/install.log
echo "setup: installing akgp[$extras] (torch with its CUDA libraries is 5.5 GB; some minutes); log: $log"
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
    --no-compile -c constraints.txt -e ".[$extras]" 2>&1 | tee "$log" | awk '
        /^ *Collecting/ && ++found % 40 == 0 { print "setup:   " found " packages found"; fflush() }
        /^Installing collected/ { print "setup:   unpacking " found " packages"; fflush() }'; then
    tail -n 15 "$log" >&2
    echo "setup: the installation failed; all of its output is in $log" >&2
    exit 1
fi
# By all processors, where pip takes one. It says 1 for the templates of some packages, which are no Python.
"$venv/bin/python" -m compileall -qq -j 0 "$venv/lib" || true
echo "setup: done"
