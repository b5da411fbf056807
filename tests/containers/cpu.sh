# shellcheck shell=bash
# Sourced by run.sh: the CPU image, built and run by the commands that docs/containers.md shows.

: "${root:?}"

cpu_image=intel/image-recognition:pytorch-cpu-3dunet-inference
# Small enough to take about a second a volume; the documented commands run at full size.
small=(--rm -e "VOLUME_SHAPE=64,64,64" -e WARM_UP=0 -e NUM_ITERATIONS=2)

# run_to FOLDER [FLAG...] [IMAGE COMMAND...]: a run whose results go to a folder of the host
run_to() {
    local folder=$1
    shift
    docker run "${small[@]}" -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$@"
}

# results FOLDER CONDITION: both result files are valid, and a Python condition on results.json (doc) and results.yaml
# (entries, by key) holds
results() {
    docker run --rm -v "$1:/results:ro" "$cpu_image" python -c '
import json, sys, yaml
doc = json.load(open("/results/results.json"))
entries = {entry["key"]: entry["value"] for entry in yaml.safe_load(open("/results/results.yaml"))["results"]}
if not eval(sys.argv[1]):
    sys.exit(f"not so: {sys.argv[1]}\n{json.dumps(doc, indent=1)[:2000]}\n{entries}")
' "$2"
}

owner_is() { [[ $(stat --format %u:%g "$1") == "$2" ]]; }

status_lines() { show < <(grep 'PERF_STATUS' "$1/output_raw.log"); }

# One timed call instead of ten, without warm-up, keeps the documented commands short.
documented_runs() {
    local folder run_flags=(${run_flags[@]+"${run_flags[@]}"} -e WARM_UP=0)
    folder=$(output dummy)
    expect "the documented dummy run ends with 0" ends 0 documented dummy "s#/tmp/output:#$folder:#; s#ITERATIONS=10#ITERATIONS=1#"
    expect "its results are complete" results "$folder" \
        'doc["complete"] and doc["volume"]["standard"] and entries["throughput"] > 0 and entries["accuracy"] is None'
    expect "its results belong to the folder's owner" owner_is "$folder/results.json" 1000:1000
    status_lines "$folder"

    folder=$(output accuracy)
    sample_data
    if [[ ! -e $DATASET_DIR/build/preprocessed_data ]]; then
        expect "read-only data without preprocessed volumes end with 2" on_the_sample ends 2 docker run --rm -e DUMMY=no \
            -e DATASET_DIR=/dataset -v "$DATASET_DIR:/dataset:ro" "$cpu_image"
        expect "in one line that names the remedy" says PREPROCESSED_DIR
    fi
    expect "the documented accuracy run on read-only data ends with 0" on_the_sample ends 0 documented accuracy \
        "s#/tmp/output:#$folder:#; s#ITERATIONS=10#ITERATIONS=1#"
    expect "its results hold Dice" results "$folder" \
        'doc["complete"] and doc["mode"] == "accuracy" and entries["accuracy"] > 50'
    status_lines "$folder"
}

sample_data() {
    if [[ -z ${DATASET_DIR:-} ]]; then
        export DATASET_DIR=$WORK/sample_data
        "$root/setup.sh" --sample-data "$DATASET_DIR" || die "the sample data cannot be made; give DATASET_DIR"
    fi
}

on_the_sample() {
    local run_flags=(${run_flags[@]+"${run_flags[@]}"} -e WEIGHTS=sample -e NUM_IMAGES=1)
    "$@"
}

wrong_values() {
    local folder
    folder=$(output wrong)
    expect "a wrong variable ends with 2" ends 2 docker run --rm -e PRECISION=fp12 "$cpu_image"
    expect "in one line that names it" says PRECISION fp12 bf16
    expect "an NVIDIA GPU that is not there ends with 2" ends 2 docker run --rm -e PLATFORM=CUDA "$cpu_image"
    expect "in one line" says PLATFORM=CUDA
    if [[ ! -e /dev/dri ]]; then
        expect "an Intel GPU that was not passed on ends with 2" ends 2 docker run --rm -e PLATFORM=Max "$cpu_image"
        expect "in one line that names the flag" says '--device /dev/dri'
    fi
    expect "an output folder of somebody else under --user ends with 2" ends 2 \
        run_to "$folder" --user 4321:4321 "$cpu_image"
    expect "in one line that names it" says OUTPUT_DIR /tmp/output
}

stop_signal() {
    local folder code waited=0
    folder=$(output stopped)
    docker rm --force unet3d-stopped > /dev/null 2>&1 || true
    docker run --detach --name unet3d-stopped -e VOLUME_SHAPE=64,64,64 -e NUM_ITERATIONS=100000 -e STATUS_PRINTS=100000 \
        -e OUTPUT_DIR=/tmp/output -v "$folder:/tmp/output" "$cpu_image" /bin/bash -c "./run_model.sh" > /dev/null
    until grep -q PERF_STATUS "$folder/output_raw.log" 2> /dev/null || ((waited++ > 180)); do
        sleep 1
    done
    docker stop --time 30 unet3d-stopped > /dev/null
    code=$(docker wait unet3d-stopped)
    docker logs unet3d-stopped > "$WORK/stdout.log" 2>&1
    docker rm unet3d-stopped > /dev/null
    expect "SIGTERM ends the run with 143, it ended with $code" test "$code" = 143
    expect "its partial results are valid and marked incomplete" results "$folder" \
        'doc["complete"] is False and len(doc["samples"]["latency_ms"]) > 0 and entries["throughput"] > 0'
    show < <(tail -n 1 "$WORK/stdout.log")
}

users() {
    local folder
    folder=$(output of-root 0:0)
    expect "an output folder of root, made as Docker makes missing ones" ends 0 run_to "$folder" "$cpu_image"
    expect "root has no capabilities left there" ends 0 run_to "$folder" "$cpu_image" \
        grep -qE '^CapEff:\s+0+$' /proc/self/status
    folder=$(output for-all 1000:1000 777)
    expect "--user with a number that has no name" ends 0 run_to "$folder" --user 4321:4321 "$cpu_image"
    expect "its results belong to that number" owner_is "$folder/results.json" 4321:4321
    expect "--cap-drop ALL" ends 0 run_to "$folder" --cap-drop ALL "$cpu_image"
    expect "without a mounted folder the user is not root" ends 0 docker run --rm "$cpu_image" \
        python -c 'import os, sys; sys.exit(os.getuid() != 10001)'
    folder=$(output read-only)
    expect "read-only root file system with an output volume" ends 0 run_to "$folder" --read-only "$cpu_image"
    expect "its results are complete" results "$folder" 'doc["complete"]'
}

settings() {
    local folder code=0
    folder=$(output settings)
    expect "MULTI_TILE=False IPEX=no AMP=no JIT=none" ends 0 run_to "$folder" -e MULTI_TILE=False -e IPEX=no -e AMP=no \
        -e JIT=none "$cpu_image"
    folder=$(output compile)
    expect "JIT=compile finds its compiler" ends 0 run_to "$folder" -e JIT=compile "$cpu_image"
    folder=$(output int8)
    expect "ENGINE=openvino PRECISION=int8" ends 0 run_to "$folder" -e ENGINE=openvino -e PRECISION=int8 "$cpu_image"
    status_lines "$folder"
    docker run "${small[@]}" -e MULTI_TILE=True "$cpu_image" > "$WORK/stdout.log" 2> "$WORK/stderr.log" || code=$?
    if ((code == 0)); then
        passed "MULTI_TILE=True runs on every device"
    else
        expect "MULTI_TILE=True ends with 2, it ended with $code" test "$code" = 2
        expect "in one line" says MULTI_TILE
    fi
}

# The C++ operators made with the image serve the CPU that it was made on; on another they are compiled anew.
operators() {
    local status='from unet3d.network.cpu_ops import build; import os, sys; kind, path = build.status(); print(kind, os.path.realpath(path))'
    expect "the C++ operators made with the image are used" ends 0 docker run --rm "$cpu_image" python -c "$status"
    expect "here" grep -q '^native /opt/unet3d/operators/' "$WORK/stdout.log"
    sed 's/^flags\t*:/& another_cpu/' /proc/cpuinfo > "$WORK/cpuinfo"
    expect "another CPU makes its own" ends 0 docker run --rm -v "$WORK/cpuinfo:/proc/cpuinfo:ro" "$cpu_image" \
        python -c "$status"
    expect "there" grep -q '^native /tmp/' "$WORK/stdout.log"
    mkdir -p "$WORK/output/home"
    chmod 1777 "$WORK/output/home"
    expect "which a volume for HOME keeps" ends 0 docker run --rm -v "$WORK/cpuinfo:/proc/cpuinfo:ro" \
        -v "$WORK/output/home:/opt/unet3d/home" "$cpu_image" python -c "$status"
    expect "there" compgen -G "$WORK/output/home/.cache/unet3d/fused-*/unet3d_fused-*.so"
}

# A server of this machine stands for Zenodo; with Docker it is reached only when the container shares the network.
weights() {
    local folder server step=(--rm --user 0 --entrypoint docker/common/finish.sh -e WEIGHTS_URL=http://127.0.0.1:9/fold_1.zip)
    folder=$(output weights)
    mkdir -p "$WORK/output/store"
    chmod 1777 "$WORK/output/store"
    python3 -m http.server --bind 127.0.0.1 --directory "$root/samples" 8731 > "$WORK/server.log" 2>&1 &
    server=$!
    until (: < /dev/tcp/127.0.0.1/8731) 2> /dev/null || ! kill -0 "$server" 2> /dev/null; do
        sleep 0.2
    done
    expect "a volume for the weights is filled at the first run" ends 0 run_to "$folder" --network host \
        -e WEIGHTS_URL=http://127.0.0.1:8731/fold_1.zip -v "$WORK/output/store:/opt/unet3d/weights" "$cpu_image"
    kill "$server"
    expect "and these are used" results "$folder" 'doc["weights"]["kind"] == "custom"'
    expect "also when the server is gone" ends 0 run_to "$folder" -v "$WORK/output/store:/opt/unet3d/weights" "$cpu_image"
    expect "with the same weights" results "$folder" 'doc["weights"]["kind"] == "custom"'

    # The build's last step on its own, with an address that no machine serves.
    expect "unreachable weights do not end a build" ends 0 docker run "${step[@]}" "$cpu_image"
    expect "unless REQUIRE_WEIGHTS=1" ends 1 docker run "${step[@]}" -e REQUIRE_WEIGHTS=1 "$cpu_image"
    expect "in a line that says so" grep -q 'ERROR: REQUIRE_WEIGHTS=1' "$WORK/stderr.log"
}

cpu() {
    heading "CPU image"
    cpu_base
    built "$cpu_image" documented build "s#docker build#& --build-arg BASE_IMAGE=$BASE_IMAGE#" || return 0
    documented_runs
    wrong_values
    stop_signal
    users
    settings
    operators
    weights
}
