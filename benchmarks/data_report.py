#!/usr/bin/env python3
"""Speed and memory of fairseq-data-report: headers, then decoding.

    python benchmarks/data_report.py [--files 20000] [--decoded 2000] [--workers 2]

FLAC files of 14 s are written once (speech-like noise, all different). Wall time and processor seconds of each pass are
measured in a process of its own, whose largest memory is recorded too; the same with a tenth of the files shows what
memory grows with. The target for headers: 20,000 files a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 14
RATE = 16_000
A_FOLDER = 500  # files per folder
_PASS = """
import contextlib, json, resource, sys, time
sys.path.insert(0, {repository!r})
from fairseq.corpora.report.report import ReportSettings, make_report
class Bar:
    def advance(self, items=1): pass
def usage():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both), [one.ru_maxrss / 1024 for one in both]
before, began = usage()[0], time.perf_counter()
settings = ReportSettings(({manifest!r},), decode={decode!r}, workers={workers})
report = make_report(settings, lambda *said: contextlib.nullcontext(Bar()))
after, memory = usage()
print(json.dumps({{"wall_s": time.perf_counter() - began, "cpu_s": after - before, "mib": memory,
    "findings": [finding.headline for finding in report.findings]}}))
"""


def make_files(folder: Path, count: int) -> list[str]:
    """Write `count` different files; returns the manifest's lines."""
    import soundfile

    rng = np.random.default_rng(0)
    time = np.arange(SECONDS * RATE) / RATE
    envelope = np.abs(np.sin(2 * np.pi * 1.3 * time)) ** 2
    voice = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 12))
    noise = rng.standard_normal(2 * SECONDS * RATE)
    lines = []
    for number in range(count):
        name = f"{number // A_FOLDER:04d}/{number:06d}.flac"
        (folder / name).parent.mkdir(exist_ok=True)
        begin = int(rng.integers(SECONDS * RATE))
        wave = rng.uniform(0.5, 1) * (
            0.05 * envelope * voice + (0.02 * envelope + 0.001) * noise[begin : begin + len(time)]
        )
        soundfile.write(folder / name, wave, RATE, subtype="PCM_16")
        lines.append(f"{name}\t{len(time)}")
    return lines


def run(manifest: Path, decode: str, workers: int, files: int) -> dict[str, object]:
    """Measure one report in a process of its own."""
    code = _PASS.format(repository=str(REPOSITORY), manifest=str(manifest), decode=decode, workers=workers)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "files": files,
        "wall_s": round(found["wall_s"], 2),
        "cpu_s": round(found["cpu_s"], 2),
        "files_per_minute": round(60 * files / found["wall_s"]),
        "files_per_cpu_minute": round(60 * files / found["cpu_s"]),
        "mib_main": round(found["mib"][0], 1),
        "mib_worker": round(found["mib"][1], 1),
        "findings": found["findings"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=20_000, help="files whose headers are read (default: 20000)")
    parser.add_argument("--decoded", type=int, default=2_000, help="files that are decoded (default: 2000)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--name", default="data_report", help="name of the result file (default: data_report)")
    args = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    import results_file

    result: dict[str, object] = {"seconds_per_file": SECONDS, "workers": args.workers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = make_files(folder, args.files)

        def manifest(count: int) -> Path:
            path = folder / f"{count}.tsv"
            path.write_text("\n".join([name, *lines[:count]]) + "\n", encoding="utf-8")
            return path

        for pass_, decode, counts in (
            ("headers", "none", (args.files // 10, args.files)),
            ("decoding", "all", (args.decoded // 10, args.decoded)),
        ):
            for count in counts:
                result[f"{pass_}_{count}"] = found = run(manifest(count), decode, args.workers, count)
                print(pass_, json.dumps(found))
    print("results:", results_file.write(args.name, result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
