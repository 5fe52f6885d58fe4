"""Seconds that `import taut` takes, and how much of that is not torch's.

python benchmarks/import_time.py [--json] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

LIMITS = {"import taut": 2.5, "over torch": 0.4}


def seconds(module: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default %(default)s)")
    options = parser.parse_args()
    seconds("taut")  # fills the file cache
    rounds = [(seconds("torch"), seconds("taut")) for _ in range(options.repeats)]
    found = {
        "import torch": statistics.median(torch for torch, _ in rounds),
        "import taut": statistics.median(taut for _, taut in rounds),
        "over torch": statistics.median(taut - torch for torch, taut in rounds),
    }
    if options.json:
        print(json.dumps({"name": "import", "seconds": found, "limits": LIMITS}))
        return
    for name, value in found.items():
        limit = LIMITS.get(name)
        print(f"{name:<14} {value:6.2f} s" + (f"   (limit {limit} s)" if limit else ""))


if __name__ == "__main__":
    main()
