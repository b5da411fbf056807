#!/usr/bin/env bash
# Runs the benchmark; sets up first where needed. Settings: ./run_model.sh --help
set -euo pipefail

# Signals that come while the interpreter is looked for end the script; from then on Python answers them.
trap 'exit 130' INT
trap 'exit 143' TERM
here=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" >/dev/null && pwd -P)
python=$("$here/setup.sh" --python)
# Held back until Python is ready to answer them: its own start would show a traceback.
held=(env --block-signal=INT --block-signal=TERM)
"${held[@]}" true 2>/dev/null || held=()
exec ${held[@]+"${held[@]}"} "$python" "$here/predict.py" "$@"
