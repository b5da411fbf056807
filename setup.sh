#!/usr/bin/env bash
# Makes .venv with the pinned requirements and fetches the weights. Nothing is done twice.
#   ./setup.sh                     set up
#   ./setup.sh --sample-data DIR   make a synthetic BraTS-like data set as well (default folder: sample_data)
#   ./setup.sh --python            set up where needed and print the interpreter to use (the other scripts call this)
#   ./setup.sh --tests             install what the tests need as well
set -euo pipefail

# A program that answers a signal by an exit code of its own does not end the script.
trap 'exit 130' INT
trap 'exit 143' TERM
here=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" >/dev/null && pwd -P)
venv="$here/.venv"
log="$here/setup.log"
fresh="$venv/.weights-not-tried"
needed_gb=4 # with a PyTorch for CPUs
needed_with_cuda_gb=10

say() { echo "setup: $*" >&2; }
fail() {
    say "$*"
    exit 2
}

usable() { "$1" "$here/unet3d/installed.py" "$here/$2" >/dev/null 2>&1; }

# runs PYTHON REQUIREMENTS: whether a run works with this interpreter; what it lacks all the same is said in a line
runs() {
    local lacks
    if lacks=$("$1" "$here/unet3d/installed.py" "$here/$2" 2>/dev/null); then
        return 0
    elif [ $? = 3 ]; then
        say "using $1, which $lacks"
        return 0
    fi
    # Whoever has activated an environment expects it to be used.
    [ -z "${VIRTUAL_ENV:-}" ] || say "$1 is active, but cannot be used: ${lacks//$'\n'/, }"
    return 1
}

# Signals are held back until the module can answer them: Python's own start would show a traceback.
module() {
    local held=(env --block-signal=INT --block-signal=TERM)
    "${held[@]}" true 2>/dev/null || held=()
    PYTHONPATH="$here" ${held[@]+"${held[@]}"} "$python" -m "$@" >&2
}

system_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, found $(python3 --version 2>&1 || echo none); install one (Debian: apt-get install python3.11 python3.11-venv)"
}

explain() {
    if grep -q 'No space left' "$log"; then
        fail "the disk is full; free $needed_with_cuda_gb GB in $here or in \$TMPDIR, or $needed_gb GB for a PyTorch without CUDA (docs/install.md), then run ./setup.sh again"
    elif grep -qE 'NewConnectionError|Temporary failure|timed out|No matching distribution|ProxyError' "$log"; then
        fail "the package index cannot be reached or lacks a pinned package; check network and proxy (http_proxy, https_proxy, PIP_INDEX_URL), then run ./setup.sh again; details: $log"
    fi
    fail "$1 failed: $(tail -n 1 "$log"); details: $log"
}

install() {
    local free
    free=$(($(df -Pk "$here" | awk 'NR == 2 {print $4}') / 1000000))
    [ "$free" -ge "$needed_gb" ] || fail "$free GB are free in $here, $needed_gb GB are needed; free some space"
    say "installing $1 into .venv (some minutes the first time)"
    "$venv/bin/python" -m pip install --disable-pip-version-check -r "$here/$1" >"$log" 2>&1 || explain "pip install -r $1"
}

environment() {
    local active
    # A container or an active environment that has what a run needs is used as it is.
    active=$(command -v python3 || true)
    if [ -n "$active" ] && [ "${VIRTUAL_ENV:-}" != "$venv" ] && runs "$active" "$1"; then
        echo "$active"
        return
    fi
    if ! [ -x "$venv/bin/python" ]; then
        active=$(system_python)
        say "no usable environment here: making .venv with $active"
        "$active" -m venv "$venv" >"$log" 2>&1 || {
            rm -rf "$venv"
            fail "python3 -m venv does not work here; install it (Debian: apt-get install python3-venv), then run ./setup.sh again"
        }
    fi
    if ! usable "$venv/bin/python" "$1"; then
        install "$1"
        touch "$fresh"
    fi
    echo "$venv/bin/python"
}

sample_data="" print=no tests=no
while [ $# -gt 0 ]; do
    case "$1" in
    --sample-data)
        sample_data="$here/sample_data"
        if [ $# -gt 1 ] && [ "${2#--}" = "$2" ]; then
            [ -n "$2" ] || fail "--sample-data: the folder's name is empty; name one, or leave it out for sample_data"
            sample_data=$2
            shift
        fi
        ;;
    --python) print=yes ;;
    --tests) tests=yes ;;
    -h | --help)
        sed -n '2,6s/^# *//p' "$0"
        exit 0
        ;;
    *) fail "$(printf '%.200q' "$1"): unknown; use --sample-data [DIR], --tests, --python or nothing" ;;
    esac
    shift
done

python=$(environment requirements.txt)
if [ "$tests" = yes ] && ! usable "$python" requirements-test.txt; then
    # Only our own environment is added to: an active one is the user's.
    [ "$python" = "$venv/bin/python" ] || python=$(VIRTUAL_ENV='' PATH=/usr/bin:/bin environment requirements.txt)
    [ "$python" = "$venv/bin/python" ] || fail "the active environment lacks packages; pip install -r requirements-test.txt"
    install requirements-test.txt
fi
# Whoever only asks for the interpreter has weights already, or ran without; the network is not tried at every run.
if [ "$print" = no ] || [ -e "$fresh" ]; then
    rm -f "$fresh"
    module unet3d.brats.weights "$here/weights" || true
fi
[ -z "$sample_data" ] || module unet3d.brats.sample_data "$sample_data"
if [ "$print" = yes ]; then
    echo "$python"
else
    say "ready: ./run_model.sh measures, ./tests/run.sh tests"
fi
