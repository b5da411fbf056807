#!/usr/bin/env bash
# Lints, with the versions that requirements-test.txt pins; stops at the first that finds something and shows what.
#   ./tests/lint.sh [check|format|types|shell ...]    without a word: all of them, in this order
set -euo pipefail

root=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." >/dev/null && pwd -P)
python=$("$root/setup.sh" --tests --python)
cd "$root"

# lint NAME COMMAND...: one line, and the command's output where it fails
lint() {
    local name=$1 output
    shift
    echo "lint: $name"
    if ! output=$("$@" 2>&1); then
        printf '%s\nlint: %s failed\n' "$output" "$name" >&2
        exit 1
    fi
}

shell() {
    local tool scripts
    tool=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/shellcheck
    shopt -s globstar nullglob
    scripts=(.ci/run ./*.sh docker/**/*.sh tests/**/*.sh)
    "$tool" "${scripts[@]}"
}

[ $# -gt 0 ] || set -- check format types shell
for word in "$@"; do
    case "$word" in
    check) lint "ruff check" "$python" -m ruff check ;;
    format) lint "ruff format --check" "$python" -m ruff format --check ;;
    types) lint "mypy" "$python" -m mypy ;;
    shell) lint "shellcheck" shell ;;
    *)
        echo "lint: $word: unknown; use check, format, types, shell or nothing" >&2
        exit 2
        ;;
    esac
done
