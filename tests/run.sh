#!/usr/bin/env bash
# Runs the tests; sets up first where needed. Arguments go to pytest: ./tests/run.sh -k timing
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$("$here/setup.sh" --tests --python)
cd "$here"
exec "$python" -m pytest "$@"
