# shellcheck shell=bash
# Sourced by run.sh: the GPU images, built as far as this machine can.

# Everything but the vendor's layers: a base that has PyTorch (Flex, CUDA), or one without it (Max).
standin_bases() {
    cpu_base
    torch_base=localhost/torch-standin
    image_build "$torch_base" "$here/standin.Dockerfile" --build-arg BASE_IMAGE="$BASE_IMAGE" \
        --build-arg TORCH="$(grep -oE '^torch==[^ ;#]+' "$root/requirements.txt")" > "$WORK/build-standin.log" 2>&1 ||
        die "the stand-in base cannot be built: $(tail -n 1 "$WORK/build-standin.log")"
    echo "        on stand-ins for the vendors' base images: OWN_GPU_BASES=1 builds on the real ones"
}

keeps_the_base_images_torch() {
    container_run "$1" /bin/bash -c '! compgen -G "/opt/venv/lib/python3*/site-packages/torch/" && python -c "import torch"'
}

# On a machine without the GPU the run must end with 2 and one line; where it is there, a small run must work.
preflight() {
    local image=$1 platform=$2 devices=() folder
    folder=$(output "$platform")
    case $platform in
        CUDA) [[ ! -e /dev/nvidia0 ]] || devices=(--gpus all) ;;
        *) [[ ! -e /dev/dri ]] || devices=(--device /dev/dri) ;;
    esac
    if [[ ${OWN_GPU_BASES:-} == 1 ]] && ((${#devices[@]})); then
        expect "$platform: runs on this machine's GPU" ends 0 "${devices[@]}" "${small[@]}" -e NUM_ITERATIONS=2 \
            -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$image"
        status_lines "$folder"
    else
        expect "$platform: without its GPU the run ends with 2" ends 2 "$image"
        expect "$platform: in one line" says "$platform"
        sed 's/^/        /' "$WORK/stderr.log"
    fi
}

gpu() {
    heading "GPU images"
    local flex=localhost/image-segmentation:pytorch-flex-gpu-3dunet-inference
    local max=localhost/image-segmentation:pytorch-max-gpu-3dunet-inference
    local cuda=localhost/image-segmentation:pytorch-cuda-3dunet-inference
    local with_torch=() without_torch=()
    if [[ ${OWN_GPU_BASES:-} != 1 ]]; then
        standin_bases
        with_torch=(--build-arg BASE_IMAGE="$torch_base")
        # The stand-in takes the wheels for the CPU from wherever the CPU image takes them.
        without_torch=(--build-arg BASE_IMAGE="$BASE_IMAGE" --build-arg GPU_DRIVER_REPOSITORY=
            --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu ${build_flags[@]+"${build_flags[@]}"})
    fi
    if built "$flex" "$(dockerfile flex-gpu pytorch-flex-series)" ${with_torch[@]+"${with_torch[@]}"}; then
        expect "Flex: the base image's PyTorch is kept" keeps_the_base_images_torch "$flex"
        preflight "$flex" Flex
    fi
    if built "$max" "$(dockerfile max-gpu pytorch-max-series)" ${without_torch[@]+"${without_torch[@]}"}; then
        preflight "$max" Max
    fi
    if built "$cuda" "$(dockerfile cuda pytorch-cuda)" ${with_torch[@]+"${with_torch[@]}"}; then
        expect "CUDA: the base image's PyTorch is kept" keeps_the_base_images_torch "$cuda"
        preflight "$cuda" CUDA
    fi
}
