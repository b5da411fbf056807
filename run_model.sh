#!/usr/bin/env bash
# Runs the benchmark; sets up first where needed. Settings: ./run_model.sh --help
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/setup.sh" --python)
exec "$python" "$here/predict.py" "$@"
