"""What ran, in a line, by the results.json of a folder: for the table of tests/versions/run.sh."""

import json
import sys
from pathlib import Path

results = json.loads((Path(sys.argv[1]) / "results.json").read_text(encoding="utf-8"))
ran, ranks = results["effective"], len(results["ranks"]) or 1
backend = ran["details"].get("compile_backend")
words = [
    ran["engine"],
    ran["precision"],
    f"JIT {ran['jit']}" + (f" ({backend})" if backend else ""),
    *(["IPEX"] if ran["ipex"] else []),
    f"{ranks} rank{'s' if ranks > 1 else ''}",
    f"error {results['check']['relative_error']:.1g}",
]
if not results["complete"]:
    sys.exit(f"incomplete: {results['incomplete_reason']}")
print(", ".join(words))
