#!/usr/bin/env bash
# Entry point of every image. Started as root (docker run without --user) it hands over to the owner of the output
# folder, so that results belong to whoever made the folder, without any of root's capabilities. Started under
# another user (--user) it changes nobody. Either way HOME and the temporary folder are made usable, also on a read-only
# root file system and for a user number that has no name in the image.
set -euo pipefail

project=/opt/unet3d

existing_parent() {
    local path=$1
    until [[ -e $path ]]; do
        path=$(dirname "$path")
    done
    echo "$path"
}

output_folder() {
    if [[ " $* " =~ \ --output-dir[=\ ]([^ ]+) ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        echo "${OUTPUT_DIR:-$PWD/output}"
    fi
}

# Prints uid:gid to run as.
chosen_user() {
    local output parent
    output=$(realpath -m "$1")
    parent=$(existing_parent "$output")
    if [[ $(findmnt --noheadings --output TARGET --target "$parent") == / ]]; then
        # Not mounted from the host: nobody's ownership to respect.
        if [[ ! -e $output ]]; then
            install -d -o unet3d -g unet3d "$output" 2> /dev/null || true
        fi
        echo "$(id -u unet3d):$(id -g unet3d)"
    elif [[ $(stat --format %u%A "$parent") == 0*w? ]]; then
        # Root's, but all may write to it, such as a temporary file system.
        echo "$(id -u unet3d):$(id -g unet3d)"
    else
        stat --format %u:%g "$parent"
    fi
}

# Prints the groups to keep: those given by --group-add and those that own the GPU's device files.
chosen_groups() {
    local devices=()
    shopt -s nullglob
    devices=(/dev/dri/card* /dev/dri/renderD* /dev/accel/*)
    {
        id -G | tr ' ' '\n' | sed '/^0$/d'
        if ((${#devices[@]})); then
            stat --format %g "${devices[@]}"
        fi
        echo "$1"
    } | sort -un | paste -sd,
}

hand_over() {
    local user groups
    user=$(chosen_user "$(output_folder "$@")")
    groups=$(chosen_groups "${user#*:}")
    local drop=(setpriv --reuid "${user%:*}" --regid "${user#*:}" --groups "$groups"
        --inh-caps=-all --bounding-set=-all --no-new-privs)
    if "${drop[@]}" true 2> /dev/null; then
        exec "${drop[@]}" "$0" --handed-over "$@"
    fi
    echo "WARNING: this container may not change its user (started with --cap-drop?): it goes on as root" >&2
}

# HOME is new for every container, unless a volume for it keeps what is compiled and converted at the first use.
make_home() {
    local folder kept=$project/home
    if [[ -w $kept ]] && mountpoint --quiet "$kept"; then
        HOME=$kept
    else
        for folder in "${TMPDIR:-/tmp}" /dev/shm; do
            if [[ -d $folder && -w $folder ]]; then
                export TMPDIR=$folder
                break
            fi
        done
        HOME=$(mktemp -d "${TMPDIR:-/tmp}/home.XXXXXX") || {
            echo "ERROR: neither /tmp nor /dev/shm can be written: add --tmpfs /tmp:exec to docker run" >&2
            exit 2
        }
        # Made with the image, for the kind of CPU that it was made on; on another they are not found but compiled.
        # Links, since a temporary file system often does not let libraries be loaded from it.
        mkdir -p "$HOME/.cache"
        [[ ! -d $project/operators ]] || cp --recursive --symbolic-link "$project/operators" "$HOME/.cache/unet3d"
    fi
    # Some libraries ask for the user's name, which a bare number given by --user does not have.
    export HOME USER=${USER:-unet3d} LOGNAME=${LOGNAME:-unet3d}
}

# A volume mounted for the weights is filled at the first run. Without one they would be fetched for every container.
fetch_weights() {
    local folder=$project/weights
    if [[ -z ${WEIGHTS:-} && -w $folder && ! -e $folder/fold_1.zip ]] && mountpoint --quiet "$folder"; then
        (cd $project && python -m unet3d.brats.weights "$folder" >&2) || true
    fi
}

if [[ ${1:-} == --handed-over ]]; then
    shift
elif (($(id -u) == 0)); then
    hand_over "$@"
fi
make_home
fetch_weights
exec "$@"
