#!/usr/bin/env bash
# Runs the benchmark, and the tests of engines and ranks, with other releases of PyTorch than the pinned one.
#   tests/versions/run.sh [ipex|newest|oldest|VERSION ...]    without a word: ipex and newest
#
#   ipex     requirements-ipex.txt, and the benchmark with IPEX=yes
#   newest   what the package index has
#   oldest   the first release that unet3d/installed.py allows
#
# Each has an environment of its own, which takes up to 7 GB of disk. Variables:
#   VERSIONS_DIR   where environments and outputs go and stay; without it a temporary folder, removed at the end
#   PYTHON         makes the environments; python3 without it
#   LIMIT          seconds that one row may take, 1800 without it
# Ends with a table, a row for each thing that was run; exit code 1 if one of them failed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
limit=${LIMIT:-1800}
work=${VERSIONS_DIR:-$(mktemp -d)}
[ -n "${VERSIONS_DIR:-}" ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
work=$(cd "$work" && pwd)
table="" failures=0

# What pip is to install for a word beside the common requirements and pytest.
wanted() {
    case "$1" in
    ipex) grep -E '^(torch|intel-extension-for-pytorch)==' "$root/requirements-ipex.txt" ;;
    newest) grep -oE '"torch[^"]+"' "$root/pyproject.toml" | tr -d '"' ;;
    oldest) PYTHONPATH=$root "$python" -c 'from unet3d import installed; print("torch==" + ".".join(map(str, installed.TORCH.first)) + ".*")' ;;
    [0-9]*) echo "torch==$1" ;;
    *)
        echo "$1: unknown; use ipex, newest, oldest or a version of torch" >&2
        exit 2
        ;;
    esac
}

# environment WORD: makes it where it is not there yet, with all that is wanted
environment() {
    local folder=$work/$1 list=$work/$1.txt
    wanted "$1" >"$list"
    cat "$root/requirements-common.txt" >>"$list"
    grep -E '^(pytest|pytest-timeout|hypothesis|fastjsonschema)==' "$root/requirements-test.txt" >>"$list"
    ! cmp -s "$list" "$folder/.complete" || return 0
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$list"
    cp "$list" "$folder/.complete"
}

# row WORD NAME LABELS COMMAND...: one thing that is run; LABELS is a folder whose results are shown, or -
row() {
    local word=$1 name=$2 labels=$3 log outcome=ok shown="" code=0
    shift 3
    log="$work/$word.$(echo "$name" | tr -c 'A-Za-z0-9\n' '-').log"
    timeout --kill-after=20 "$limit" "$@" >"$log" 2>&1 || code=$?
    if [ "$code" != 0 ]; then
        outcome="FAILED ($code)"
        failures=$((failures + 1))
        shown=$(grep -E '^ERROR|^FAILED|^[0-9]+ failed' "$log" | head -n 1) || shown=$(tail -n 1 "$log")
    elif [ "$labels" != - ]; then
        shown=$("$work/$word/bin/python" "$root/tests/versions/labels.py" "$labels")
    else
        shown=$(grep -E '[0-9]+ passed' "$log" | tail -n 1)
    fi
    printf '%s\n' "$word: $name: $outcome: $shown" >&2
    table+=$(printf '| %s | %s | %s | %s |' "$word" "$name" "$outcome" "$shown")$'\n'
}

# benchmark WORD VARIABLE...: the main job on a small volume
benchmark() {
    local word=$1 output
    shift
    output=$(mktemp -d "$work/output.XXXX")
    row "$word" "$*" "$output" env PLATFORM=CPU WEIGHTS=random VOLUME_SHAPE=64,64,64 NUM_ITERATIONS=2 WARM_UP=1 \
        OUTPUT_DIR="$output" "$@" "$work/$word/bin/python" "$root/predict.py"
    rm -rf "$output"
}

cd "$root"
[ $# -gt 0 ] || set -- ipex newest
for word in "$@"; do
    environment "$word"
    jobs=("JIT=none" "JIT=trace" "JIT=compile" "JIT=compile NETWORK=reference" "INSTANCES=2")
    for job in "${jobs[@]}"; do
        [ "$word" != ipex ] || job="IPEX=yes $job"
        read -ra variables <<<"$job"
        benchmark "$word" "${variables[@]}"
    done
    row "$word" "tests of engines and ranks" - "$work/$word/bin/python" -m pytest -p no:cacheprovider \
        tests/engines tests/ranks tests/network/test_cpu_network.py
done
printf '\n| PyTorch | run | outcome | what ran |\n| --- | --- | --- | --- |\n%s' "$table"
[ "$failures" = 0 ]
