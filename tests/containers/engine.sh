# shellcheck shell=bash
# Sourced by run.sh: building and running images with docker, or with buildah and podman where no daemon runs.

have() { command -v "$1" > /dev/null; }

die() {
    echo "ERROR: $*" >&2
    exit 1
}

# Flags from the environment are split at spaces: paths with spaces are not supported there.
read -ra build_flags <<< "${BUILD_FLAGS:-}"
read -ra run_flags <<< "${RUN_FLAGS:-}"

start_engine() {
    if have docker && docker info > /dev/null 2>&1; then
        engine=docker
        return
    fi
    engine=podman
    local tool
    for tool in buildah podman runc; do
        have "$tool" || die "no Docker daemon, and $tool is not installed: apt-get install buildah podman runc"
    done
    (($(id -u) == 0)) || die "no Docker daemon: run this as root, for buildah and podman"
    use_storage overlay
    # Inside some containers overlay cannot be mounted; vfs works anywhere, but copies the image for every layer.
    if ! tar --create --files-from /dev/null | podman "${storage[@]}" import - localhost/probe > /dev/null 2>&1; then
        rm -rf "$WORK/storage" "$WORK/runroot"
        use_storage vfs
    fi
}

use_storage() {
    storage=(--root "$WORK/storage" --runroot "$WORK/runroot" --storage-driver "$1")
}

podman_() {
    podman "${storage[@]}" --cgroup-manager cgroupfs --runtime runc "$@"
}

# image_build TAG DOCKERFILE [FLAG...]
image_build() {
    local tag=$1 file=$2
    shift 2
    if [[ $engine == docker ]]; then
        docker build -f "$file" -t "$tag" ${build_flags[@]+"${build_flags[@]}"} "$@" "$root"
    else
        buildah "${storage[@]}" bud --layers --isolation chroot --network host -f "$file" -t "$tag" \
            ${build_flags[@]+"${build_flags[@]}"} "$@" "$root"
    fi
}

# container_run [FLAG...] IMAGE [COMMAND...]
container_run() {
    if [[ $engine == docker ]]; then
        docker run --rm ${run_flags[@]+"${run_flags[@]}"} "$@"
    else
        podman_ run --rm --network host ${run_flags[@]+"${run_flags[@]}"} "$@"
    fi
}

# container_start NAME [FLAG...] IMAGE [COMMAND...]: in the background, kept after its end
container_start() {
    local name=$1
    shift
    if [[ $engine == docker ]]; then
        docker run --detach --name "$name" ${run_flags[@]+"${run_flags[@]}"} "$@"
    else
        podman_ run --detach --name "$name" --network host ${run_flags[@]+"${run_flags[@]}"} "$@"
    fi
}

# Any other command of the engine, such as stop, wait, logs, rm, image inspect.
engine_() {
    if [[ $engine == docker ]]; then docker "$@"; else podman_ "$@"; fi
}

# Makes a Debian base image with Python, for machines that reach Debian's mirror but no registry of images.
debian_base() {
    local tag=$1
    have debootstrap || die "debootstrap is not installed: apt-get install debootstrap, or give BASE_IMAGE"
    if [[ ! -e $WORK/base.tar ]]; then
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm \
            "$WORK/base" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$WORK/debootstrap.log" 2>&1 ||
            die "debootstrap failed: $(tail -n 1 "$WORK/debootstrap.log")"
        tar -C "$WORK/base" --exclude './var/cache/apt/*.bin' --exclude './var/cache/apt/archives/*.deb' \
            --exclude './var/lib/apt/lists/*' -cf "$WORK/base.tar" .
        rm -rf "$WORK/base"
    fi
    engine_ import "$WORK/base.tar" "$tag" > /dev/null 2>&1
}
