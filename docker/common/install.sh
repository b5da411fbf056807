#!/usr/bin/env bash
# The installation steps that all images share; runs as root while an image is built.
#   install.sh FOLDER     the folder holds the project's requirements files
# Makes /opt/venv on top of the base image's Python. A PyTorch that the base brings is kept as it is; without one it is
# installed from TORCH_INDEX_URL in the version that requirements.txt pins. EXTRA_REQUIREMENTS names further requirements
# files. GPU_DRIVER_REPOSITORY (an apt "URL suite component"), GPU_DRIVER_KEY (URL of its signing key) and
# GPU_DRIVER_PACKAGES add a vendor's user-space GPU driver.
# What apt and pip download stays in the build's cache mounts (/var/cache/apt, /var/lib/apt, /root/.cache/pip), which are no
# part of the image: a build after a change of one requirement downloads only that.
set -euo pipefail

folder=$1
venv=/opt/venv
# Debian's and Ubuntu's images have apt throw away what it has downloaded.
docker_clean=/etc/apt/apt.conf.d/docker-clean
user=unet3d

die() {
    echo "ERROR: $*" >&2
    exit 1
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -o APT::Keep-Downloaded-Packages=true install -y --no-install-recommends "$@"
}

base_python() {
    command -v python || command -v python3 || true
}

has_header() {
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

install_system_packages() {
    # A C++ compiler and Python's headers are what torch.compile needs at run time (JIT=compile).
    local packages=(ca-certificates g++ numactl tini util-linux)
    local python
    apt-get update
    python=$(base_python)
    if [[ -z $python ]]; then
        packages+=(python3 python3-dev python3-pip python3-venv)
    elif ! has_header "$python"; then
        packages+=("lib$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')")
    fi
    apt_install "${packages[@]}"
}

install_gpu_driver() {
    [[ -n ${GPU_DRIVER_REPOSITORY:-} ]] || return 0
    local keyring=/usr/share/keyrings/gpu-driver.asc packages
    "$(base_python)" - "${GPU_DRIVER_KEY:?}" "$keyring" <<'PYTHON'
import sys, urllib.request
urllib.request.urlretrieve(sys.argv[1], sys.argv[2])
PYTHON
    echo "deb [arch=amd64 signed-by=$keyring] $GPU_DRIVER_REPOSITORY" > /etc/apt/sources.list.d/gpu-driver.list
    apt-get update
    read -ra packages <<< "${GPU_DRIVER_PACKAGES:?}"
    apt_install "${packages[@]}"
}

install_python_packages() {
    local base pin constraints rest
    base=$(base_python)
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "the base image's $("$base" --version) is too old: 3.11 or newer is needed, choose another BASE_IMAGE"
    # Without a pip of its own the environment uses the base image's, which saves a copy.
    "$base" -m venv --system-site-packages --without-pip "$venv"
    constraints=$(mktemp)
    rest=$(mktemp)
    # Options such as an extra index are left out with torch: which index serves it is the image's choice. An included file
    # is looked for beside the file that includes it.
    local file extra
    read -ra extra <<< "${EXTRA_REQUIREMENTS:-}"
    for file in requirements.txt ${extra[@]+"${extra[@]}"}; do
        [[ -e $folder/$file ]] || die "EXTRA_REQUIREMENTS: $file is not in the repository's root"
        sed -E "/^(torch==|--)/d; s|^-r |-r $folder/|" "$folder/$file" >> "$rest"
    done
    if "$venv/bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
        "$venv/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
            > "$constraints"
    else
        pin=$(grep -oE '^torch==[^ ;#]+' "$folder/requirements.txt") || die "requirements.txt pins no torch"
        "$venv/bin/python" -m pip install \
            --index-url "${TORCH_INDEX_URL:?the base image has no PyTorch: give --build-arg TORCH_INDEX_URL}" "$pin"
    fi
    "$venv/bin/python" -m pip install --constraint "$constraints" --requirement "$rest"
    rm -f "$constraints" "$rest"
}

add_user() {
    # A high number: 1000 is often taken in base images and by people on the host.
    groupadd --gid 10001 "$user"
    useradd --uid 10001 --gid "$user" --no-create-home --home-dir /nonexistent --shell /bin/bash "$user"
}

[[ ! -e $docker_clean ]] || mv "$docker_clean" "$docker_clean.aside"
install_system_packages
install_gpu_driver
install_python_packages
add_user
[[ ! -e $docker_clean.aside ]] || mv "$docker_clean.aside" "$docker_clean"
