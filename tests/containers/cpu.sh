# shellcheck shell=bash
# Sourced by run.sh: the CPU image, built and run as README.md and docs/containers.md say.

cpu_image=localhost/image-segmentation:pytorch-cpu-3dunet-inference
# Small enough to take about a second a volume; the documented dummy command below runs at full size.
small=(-e "VOLUME_SHAPE=64,64,64" -e WARM_UP=0)

cpu_base() {
    if [[ -z ${BASE_IMAGE:-} ]]; then
        BASE_IMAGE=localhost/debian-python:bookworm
        engine_ image inspect "$BASE_IMAGE" > /dev/null 2>&1 || debian_base "$BASE_IMAGE"
    fi
}

# output NAME [OWNER [MODE]]: a fresh folder of the host to mount, its path printed
output() {
    local folder=$WORK/output/$1
    mkdir -p "$folder"
    chown "${2:-1000:1000}" "$folder"
    chmod "${3:-755}" "$folder"
    echo "$folder"
}

# ends CODE [FLAG...] IMAGE [COMMAND...]: runs, keeps the output, and compares the exit code
ends() {
    local wanted=$1 code=0
    shift
    container_run "$@" > "$WORK/stdout.log" 2> "$WORK/stderr.log" || code=$?
    if ((code != wanted)); then
        echo "exit code $code instead of $wanted"
        tail -n 15 "$WORK/stdout.log" "$WORK/stderr.log"
        return 1
    fi
}

# results FOLDER CONDITION: both result files are valid, and a Python condition on results.json (doc) and results.yaml
# (entries, by key) holds
results() {
    container_run -v "$1:/results:ro" "$cpu_image" python -c '
import json, sys, yaml
doc = json.load(open("/results/results.json"))
entries = {entry["key"]: entry["value"] for entry in yaml.safe_load(open("/results/results.yaml"))["results"]}
if not eval(sys.argv[1]):
    sys.exit(f"not so: {sys.argv[1]}\n{json.dumps(doc, indent=1)[:2000]}\n{entries}")
' "$2"
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

owner_is() { [[ $(stat --format %u:%g "$1") == "$2" ]]; }

status_lines() { grep 'PERF_STATUS' "$1/output_raw.log" | sed 's/^/        /'; }

documented_dummy_command() {
    local folder flags=(--cap-add SYS_NICE --ipc=host)
    folder=$(output dummy)
    # Podman refuses a size for the host's shared memory, Docker ignores it.
    [[ $engine == podman ]] || flags+=(--shm-size=5g)
    [[ ! -e /dev/dri ]] || flags+=(--device /dev/dri)
    expect "dummy mode ends with 0" ends 0 "${flags[@]}" -e OUTPUT_DIR=/tmp/output -e DUMMY=yes \
        -e BATCH_SIZE=1 -e NUM_ITERATIONS=1 -e WARM_UP=0 -v "$folder:/tmp/output" \
        "$cpu_image" /bin/bash -c "./run_model.sh"
    expect "its results are complete" results "$folder" \
        'doc["complete"] and doc["volume"]["standard"] and entries["throughput"] > 0 and entries["accuracy"] is None'
    expect "its results belong to the folder's owner" owner_is "$folder/results.json" 1000:1000
    status_lines "$folder"
}

sample_data() {
    if [[ -z ${DATASET_DIR:-} ]]; then
        DATASET_DIR=$WORK/sample_data
        "$root/setup.sh" --sample-data "$DATASET_DIR" || die "the sample data cannot be made; give DATASET_DIR"
    fi
}

accuracy_mode() {
    local folder
    folder=$(output accuracy)
    sample_data
    local data=(-v "$DATASET_DIR:/dataset:ro" -e DATASET_DIR=/dataset -e DUMMY=no -e NUM_ITERATIONS=1 -e NUM_IMAGES=1
        -e WARM_UP=0 -e WEIGHTS=sample -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output")
    if [[ ! -e $DATASET_DIR/build/preprocessed_data ]]; then
        expect "read-only data without preprocessed volumes end with 2" ends 2 "${data[@]}" "$cpu_image"
        expect "and the line names the remedy" grep -q 'PREPROCESSED_DIR' "$WORK/stderr.log"
    fi
    expect "accuracy mode on read-only data ends with 0" ends 0 "${data[@]}" \
        -e PREPROCESSED_DIR=/tmp/output/preprocessed "$cpu_image" /bin/bash -c "./run_model.sh"
    expect "its results hold Dice" results "$folder" \
        'doc["complete"] and doc["mode"] == "accuracy" and doc["weights"]["kind"] == "sample" and entries["accuracy"] > 50'
    status_lines "$folder"
}

wrong_values() {
    local folder
    folder=$(output wrong)
    expect "a wrong variable ends with 2" ends 2 -e PRECISION=fp12 "$cpu_image"
    expect "in one line that names it" says PRECISION fp12 bf16
    sed 's/^/        /' "$WORK/stderr.log"
    expect "a device that this image cannot use ends with 2" ends 2 -e PLATFORM=CUDA "$cpu_image"
    expect "in one line" says CUDA
    sed 's/^/        /' "$WORK/stderr.log"
    expect "an output folder of somebody else under --user ends with 2" ends 2 --user 4321:4321 "${small[@]}" \
        -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image"
    expect "in one line that names it" says OUTPUT_DIR /tmp/output
    sed 's/^/        /' "$WORK/stderr.log"
}

stop_signal() {
    local folder code waited=0
    folder=$(output stopped)
    container_start unet3d-stopped "${small[@]}" -e NUM_ITERATIONS=100000 -e STATUS_PRINTS=100000 \
        -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image" > /dev/null
    until grep -q PERF_STATUS "$folder/output_raw.log" 2> /dev/null || ((waited++ > 180)); do
        sleep 1
    done
    engine_ stop --time 30 unet3d-stopped > /dev/null
    code=$(engine_ wait unet3d-stopped)
    engine_ logs unet3d-stopped > "$WORK/stdout.log" 2>&1
    engine_ rm unet3d-stopped > /dev/null
    expect "SIGTERM ends the run with 143, it ended with $code" test "$code" = 143
    expect "its partial results are valid and marked incomplete" results "$folder" \
        'doc["complete"] is False and len(doc["samples"]["latency_ms"]) > 0 and entries["throughput"] > 0'
    tail -n 1 "$WORK/stdout.log" | sed 's/^/        /'
}

users_and_file_systems() {
    local folder flags
    folder=$(output read-only)
    flags=(--read-only)
    # Podman mounts temporary file systems by default, which Docker does not.
    [[ $engine == docker ]] || flags+=(--read-only-tmpfs=false)
    expect "read-only root file system with an output volume" ends 0 "${flags[@]}" "${small[@]}" -e NUM_ITERATIONS=2 \
        -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image"
    expect "its results are complete" results "$folder" 'doc["complete"]'
    folder=$(output of-root 0:0)
    expect "an output folder of root, made as Docker makes missing ones" ends 0 "${small[@]}" -e NUM_ITERATIONS=1 \
        -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image"
    expect "root has no capabilities left there" ends 0 -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image" \
        grep -qE '^CapEff:\s+0+$' /proc/self/status
    folder=$(output for-all 1000:1000 777)
    expect "--user with a number that has no name" ends 0 --user 4321:4321 "${small[@]}" -e NUM_ITERATIONS=1 \
        -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image"
    expect "its results belong to that number" owner_is "$folder/results.json" 4321:4321
    expect "without a mounted folder the user is not root" ends 0 "$cpu_image" \
        python -c 'import os, sys; sys.exit(os.getuid() != 10001)'
    folder=$(output compile)
    expect "JIT=compile finds its compiler" ends 0 "${small[@]}" -e JIT=compile -e NUM_ITERATIONS=1 \
        -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image"
}

weights_at_build() {
    # The build's last step on its own, with an address that no machine serves.
    local step=(--user 0 --entrypoint docker/common/finish.sh -e WEIGHTS_URL=http://127.0.0.1:9/fold_1.zip)
    expect "unreachable weights do not end a build" ends 0 "${step[@]}" "$cpu_image"
    expect "unless REQUIRE_WEIGHTS=1" ends 1 "${step[@]}" -e REQUIRE_WEIGHTS=1 "$cpu_image"
    expect "which says so" grep -q 'ERROR: REQUIRE_WEIGHTS=1' "$WORK/stderr.log"
}

cpu() {
    heading "CPU image"
    cpu_base
    built "$cpu_image" "$(dockerfile cpu pytorch-cpu)" --build-arg BASE_IMAGE="$BASE_IMAGE" || return 0
    documented_dummy_command
    accuracy_mode
    wrong_values
    stop_signal
    users_and_file_systems
    weights_at_build
}
