#!/usr/bin/env bash
# Lints (tests/lint.sh) and runs the tests; sets up first where needed. Arguments go to pytest, and nothing is linted then,
# so that ./tests/run.sh -k timing is quick.
set -euo pipefail

here=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." >/dev/null && pwd -P)
python=$("$here/setup.sh" --tests --python)
cd "$here"
[ $# -gt 0 ] || ./tests/lint.sh
exec "$python" -m pytest "$@"
