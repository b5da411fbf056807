#!/usr/bin/env bash
# Preprocesses the volumes of DATASET_DIR ahead of a run, for data sets that are read-only when measuring.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/setup.sh" --python)
exec "$python" "$here/preprocess.py" "$@"
