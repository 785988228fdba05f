#!/usr/bin/env python3
"""Processor time of `import fairseq` beyond `import torch`.

    python benchmarks/import_time.py [--repeats 7] [--limit 0.4]

The two alternate in fresh processes, so that both see the same load; the minimum of user plus system time is used.
Exits with status 1 if the difference is above the limit.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import results_file

REPOSITORY = Path(__file__).resolve().parents[1]
STATEMENTS = {"torch": "import torch", "fairseq": "import torch, fairseq"}


def processor_seconds(statement: str) -> float:
    """User plus system time of a fresh interpreter that runs this statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=REPOSITORY)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="alternations (default: 7)")
    parser.add_argument("--limit", type=float, default=0.4, help="maximum difference in seconds (default: 0.4)")
    args = parser.parse_args()
    for statement in STATEMENTS.values():  # warm-up: compile byte code and cache files
        processor_seconds(statement)
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(args.repeats):
        for name, statement in STATEMENTS.items():
            times[name].append(round(processor_seconds(statement), 3))
    over = round(min(times["fairseq"]) - min(times["torch"]), 3)
    result = {
        "seconds_over_torch": over,
        "limit": args.limit,
        "user_plus_system_seconds": {name: sorted(runs) for name, runs in times.items()},
    }
    path = results_file.write("import_time", result)
    print(
        f"import fairseq: {over:.3f} s more than import torch ({min(times['torch']):.3f} s), limit {args.limit} s; "
        f"results: {path}"
    )
    return 1 if over > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
