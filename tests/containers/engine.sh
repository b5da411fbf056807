# shellcheck shell=bash
# Sourced by run.sh: the command docker, by Docker where its daemon runs, otherwise by buildah and podman, so that the
# documented commands run as they are written.

have() { command -v "$1" > /dev/null; }

die() {
    echo "ERROR: $*" >&2
    exit 1
}

# Flags from the environment are split at spaces: paths with spaces are not supported there.
read -ra build_flags <<< "${BUILD_FLAGS:-}"
read -ra run_flags <<< "${RUN_FLAGS:-}"

start_engine() {
    if have docker && command docker info > /dev/null 2>&1; then
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

docker() {
    local verb=$1
    shift
    case $verb in
        build) set -- ${build_flags[@]+"${build_flags[@]}"} "$@" ;;
        run) set -- ${run_flags[@]+"${run_flags[@]}"} "$@" ;;
    esac
    if [[ $engine == docker ]]; then
        command docker "$verb" "$@"
        return
    fi
    case $verb in
        build) buildah "${storage[@]}" bud --layers --isolation chroot --network host "$@" ;;
        run) podman_run "$@" ;;
        *) podman_ "$verb" "$@" ;;
    esac
}

podman_() {
    podman "${storage[@]}" --cgroup-manager cgroupfs --runtime runc "$@"
}

# Where the two differ, podman is told to do what Docker does.
podman_run() {
    local word words=()
    for word in "$@"; do
        case $word in
            # Refused beside --ipc=host, which Docker takes as meant for a container without it.
            --shm-size=*) [[ " $* " == *" --ipc=host "* ]] || words+=("$word") ;;
            # Mounts temporary file systems unless told otherwise.
            --read-only) words+=("$word" --read-only-tmpfs=false) ;;
            *) words+=("$word") ;;
        esac
    done
    # A network of its own needs kernel modules and tools that not every machine without Docker has.
    [[ " $* " == *" --network "* ]] || words=(--network host "${words[@]}")
    podman_ run "${words[@]}"
}

# The CPU image's base: its own with a Docker daemon, else Debian with Python, made here from Debian's mirror.
cpu_base() {
    [[ -z ${BASE_IMAGE:-} ]] || return 0
    BASE_IMAGE=$(python3 "${root:?}/docker/bases.py" image cpu)
    if [[ $engine == podman ]]; then
        BASE_IMAGE=localhost/debian-python:bookworm
        docker image inspect "$BASE_IMAGE" > /dev/null 2>&1 || debian_base "$BASE_IMAGE"
    fi
}

debian_base() {
    local tag=$1
    have debootstrap || die "debootstrap is not installed: apt-get install debootstrap, or give BASE_IMAGE"
    if [[ ! -e $WORK/base.tar ]]; then
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm \
            "$WORK/base" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$WORK/debootstrap.log" 2>&1 ||
            die "debootstrap failed: $(tail -n 1 "$WORK/debootstrap.log")"
        tar -C "$WORK/base" --exclude './var/cache/apt/*.bin' --exclude './var/cache/apt/archives/*.deb' \
            --exclude './var/lib/apt/lists/*' -cf "$WORK/base.part" .
        mv "$WORK/base.part" "$WORK/base.tar"
        rm -rf "$WORK/base"
    fi
    docker import "$WORK/base.tar" "$tag" > /dev/null 2>&1
}
