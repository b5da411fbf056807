#!/usr/bin/env bash
# The last build step of every image, run in the project's folder: weights, bytecode, operators, folders that a run
# writes to. REQUIRE_WEIGHTS=1 makes the build fail when MLPerf's weights cannot be fetched; otherwise the image is made
# without them: docs/containers.md says how to mount them.
set -euo pipefail

# Writable for all, since which user runs is known only then; volumes mounted here take over these permissions.
install -d -m 1777 weights home output
python -m unet3d.brats.weights weights || true
if [[ ! -e weights/fold_1.zip && ${REQUIRE_WEIGHTS:-0} == 1 ]]; then
    echo "ERROR: REQUIRE_WEIGHTS=1, but the weights could not be fetched: check network and proxy (http_proxy, https_proxy)" >&2
    exit 1
fi
# A run reads the archive itself.
rm -rf weights/fold_1
python -m compileall -q unet3d predict.py preprocess.py

# The C++ operators for the CPU take about a minute to compile, which every new container would spend again. They are kept
# for the CPU that builds the image: another one finds none of its kind and compiles its own, see
# unet3d/network/cpu_ops/build.py.
cache=$(mktemp -d)
XDG_CACHE_HOME=$cache python -c '
import sys
from unet3d.network.cpu_ops import build
print("C++ operators:", *build.status())
sys.exit(not build.available())' ||
    echo "WARNING: no C++ operators are in this image, the reason is above: every run compiles its own" >&2
if [[ -d $cache/unet3d ]]; then
    # Locks are of the process that has made them.
    rm -f "$cache"/unet3d/.in-use-*
    chmod -R a+rX "$cache/unet3d"
    rm -rf operators
    mv "$cache/unet3d" operators
fi
rm -rf "$cache"
