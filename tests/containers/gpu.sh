# shellcheck shell=bash
# Sourced by run.sh: the GPU images, built as far as this machine can.

: "${here:?} ${root:?}"

# Everything but the vendor's layers: a base that has PyTorch (Flex, CUDA), or one without it (Max).
standin_bases() {
    cpu_base
    torch_base=localhost/torch-standin
    docker build -f "$here/standin.Dockerfile" -t "$torch_base" --build-arg BASE_IMAGE="$BASE_IMAGE" \
        --build-arg TORCH="$(grep -oE '^torch==[^ ;#]+' "$root/requirements.txt")" "$root" \
        > "$WORK/build-standin.log" 2>&1 ||
        die "the stand-in base cannot be built: $(tail -n 1 "$WORK/build-standin.log")"
    echo "        on stand-ins for the vendors' base images: OWN_GPU_BASES=1 builds on the real ones"
}

keeps_the_base_images_torch() {
    docker run --rm "$1" /bin/bash -c '! compgen -G "/opt/venv/lib/python3*/site-packages/torch/" && python -c "import torch"'
}

# On a machine without the GPU the run must end with 2 and one line; where it is there, a small run must work.
preflight() {
    local image=$1 platform=$2 devices=() folder
    shift 2
    folder=$(output "$platform")
    case $platform in
        CUDA) [[ ! -e /dev/nvidia0 ]] || devices=(--gpus all) ;;
        *) [[ ! -e /dev/dri ]] || devices=(--device /dev/dri) ;;
    esac
    if [[ ${OWN_GPU_BASES:-} == 1 ]] && ((${#devices[@]})); then
        expect "$platform: runs on this machine's GPU" ends 0 run_to "$folder" "${devices[@]}" "$image"
        status_lines "$folder"
    else
        expect "$platform: without its GPU the run ends with 2" ends 2 docker run --rm "$image"
        expect "$platform: in one line" says "$@"
    fi
}

# A node that opens but drives nothing stands for the GPU's: who may open it is decided as for a real one.
render_group() {
    local image=$1 node=$WORK/output/dri
    mkdir -p "$node"
    [[ -e $node/renderD128 ]] || mknod --mode 660 "$node/renderD128" c 1 3
    chown 0:4242 "$node/renderD128"
    expect "a render node of a group that the user is not in ends with 2" ends 2 docker run --rm --user 1000:1000 \
        -v "$node:/dev/dri" "$image"
    expect "in one line that names the flag" says '--group-add 4242'
    expect "--group-add helps" ends 2 docker run --rm --user 1000:1000 --group-add 4242 -v "$node:/dev/dri" "$image"
    expect "and the line is about the next obstacle" says 'torch'
    expect "without --user the group is taken from the node" ends 2 docker run --rm -v "$node:/dev/dri" "$image"
    expect "and the line is about the next obstacle" says 'torch'
}

gpu() {
    heading "GPU images"
    local flex=intel/image-recognition:pytorch-flex-gpu-3dunet-inference
    local max=intel/image-recognition:pytorch-max-gpu-3dunet-inference
    local cuda=intel/image-recognition:pytorch-cuda-3dunet-inference
    local with_torch='' without_torch=''
    if [[ ${OWN_GPU_BASES:-} != 1 ]]; then
        standin_bases
        with_torch="--build-arg BASE_IMAGE=$torch_base"
        # The stand-in takes the wheels for the CPU from wherever the CPU image takes them.
        without_torch="--build-arg BASE_IMAGE=$BASE_IMAGE --build-arg GPU_DRIVER_REPOSITORY= $(
            )--build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu ${BUILD_FLAGS:-}"
    fi
    if built "$flex" documented build-flex "s#docker build#& $with_torch#"; then
        expect "Flex: the base image's PyTorch is kept" keeps_the_base_images_torch "$flex"
        preflight "$flex" Flex /dev/dri
        [[ -e /dev/dri || $(id -u) != 0 ]] || render_group "$flex"
    fi
    if built "$max" documented build-max "s#docker build#& $without_torch#"; then
        preflight "$max" Max /dev/dri
    fi
    if built "$cuda" documented build-cuda "s#docker build#& $with_torch#"; then
        expect "CUDA: the base image's PyTorch is kept" keeps_the_base_images_torch "$cuda"
        preflight "$cuda" CUDA PLATFORM=CUDA
    fi
}
