#!/usr/bin/env bash
# The last build step of every image, run in the project's folder: weights, bytecode, folders that a run writes to.
# REQUIRE_WEIGHTS=1 makes the build fail when MLPerf's weights cannot be fetched; otherwise the image is made without
# them: docs/containers.md says how to mount them.
set -euo pipefail

# Writable for all, since which user runs is known only then; a volume mounted here takes over these permissions.
install -d -m 1777 weights
python -m unet3d.weights weights || true
if [[ ! -e weights/fold_1.zip && ${REQUIRE_WEIGHTS:-0} == 1 ]]; then
    echo "ERROR: REQUIRE_WEIGHTS=1, but the weights could not be fetched: check network and proxy (http_proxy, https_proxy)" >&2
    exit 1
fi
python -m compileall -q unet3d predict.py preprocess.py
install -d -o unet3d -g unet3d output
