#!/usr/bin/env python3
"""Time to make a manifest, compared with fairseq's script, and to load a long one.

    python benchmarks/manifest.py [--peer-python /path/to/venv/bin/python] [--files 20000] [--rounds 3]

The two scripts alternate on one folder of short FLAC files. Wall time is measured, including the interpreter's start.
The peer's script comes from its fairseq, or from --peer-script; without a peer, a serial loop in this file does the
same work: recursive glob, real path and soundfile.info of each file. Then a manifest of 281,241 lines (LibriSpeech's
960 hours) is loaded in a fresh process.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = REPOSITORY / "examples" / "wav2vec" / "wav2vec_manifest.py"
A_FOLDER = 100  # files per folder
LINES = 281_241
_FIND_SCRIPT = (
    "import fairseq, os; print(os.path.join(os.path.dirname(fairseq.__file__), 'examples', 'wav2vec', "
    "'wav2vec_manifest.py'))"
)


def make_files(root: Path, count: int) -> None:
    """Write copies of one short recording, 100 per folder."""
    import soundfile

    root.mkdir()
    noise = np.random.default_rng(0).standard_normal(1600) * 0.1
    soundfile.write(root / "first.flac", noise, 16000, subtype="PCM_16")
    data = (root / "first.flac").read_bytes()
    (root / "first.flac").unlink()
    for number in range(count):
        folder = root / f"{number // A_FOLDER:04d}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:06d}.flac").write_bytes(data)


def serial_loop(root: str, dest: str) -> None:
    """Do the work of fairseq's script, for use without a peer: one file at a time, in glob order."""
    import soundfile

    draw = random.Random(42)
    root = os.path.realpath(root)
    os.makedirs(dest, exist_ok=True)
    with open(os.path.join(dest, "train.tsv"), "w") as train, open(os.path.join(dest, "valid.tsv"), "w") as valid:
        for file in (train, valid):
            print(root, file=file)
        for name in glob.iglob(os.path.join(root, "**/*.flac"), recursive=True):
            path = os.path.realpath(name)
            frames = soundfile.info(name).frames
            print(f"{os.path.relpath(path, root)}\t{frames}", file=train if draw.random() > 0.01 else valid)


def peer_command(args: argparse.Namespace) -> tuple[str, list[str]]:
    """(description, command without root and destination)."""
    if args.peer_script is not None:
        return Path(args.peer_script).name, [args.peer_python or sys.executable, args.peer_script]
    if args.peer_python is not None:
        found = subprocess.run(
            [args.peer_python, "-c", _FIND_SCRIPT], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        if os.path.isfile(found):
            return "fairseq's examples/wav2vec/wav2vec_manifest.py", [args.peer_python, found]
    return "a serial loop that does what fairseq's script does", [
        args.peer_python or sys.executable,
        __file__,
        "--serial",
    ]


def timed(command: list[str], root: Path, dest: Path) -> float:
    shutil.rmtree(dest, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run([*command, str(root), "--dest", str(dest)], check=True, capture_output=True)
    return time.perf_counter() - began


def load_in_fresh_process(folder: Path) -> dict[str, float]:
    """Seconds and MiB that it takes to load a long manifest."""
    path = folder / "long.tsv"
    with open(path, "w", encoding="utf-8") as file:
        print("/data/LibriSpeech", file=file)
        for i in range(LINES):
            folder_name, name = f"{i % 2338}/{i % 128871}", f"{i % 2338}-{i % 128871}-{i % 100:04d}.flac"
            print(f"train-other-500/{folder_name}/{name}\t{30000 + i % 350000}", file=file)
    code = f"""
import json, time
from fairseq.data.audio.manifest import Manifest
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * {os.sysconf("SC_PAGE_SIZE")} / 2**20
before, began = resident(), time.perf_counter()
manifest = Manifest({str(path)!r})
print(json.dumps({{"seconds": time.perf_counter() - began, "mebibytes": resident() - before, "lines": len(manifest)}}))
"""
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--dest", help=argparse.SUPPRESS)
    parser.add_argument("--serial", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peer-python", help="interpreter of an environment that has fairseq")
    parser.add_argument(
        "--peer-script", help="fairseq's wav2vec_manifest.py, if it is not inside that environment's fairseq"
    )
    parser.add_argument("--files", type=int, default=20_000, help="audio files (default: 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default: 3)")
    parser.add_argument("--name", default="manifest", help="name of the result file (default: manifest)")
    args = parser.parse_args()
    if args.serial:
        serial_loop(args.root, args.dest)
        return 0
    import results_file

    peer, command = peer_command(args)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder / "audio", args.files)
        # warm-up: file headers are in the page cache for both
        timed([sys.executable, str(OURS)], folder / "audio", folder / "ours")
        for _ in range(args.rounds):
            seconds["ours"].append(timed([sys.executable, str(OURS)], folder / "audio", folder / "ours"))
            seconds["peer"].append(timed(command, folder / "audio", folder / "peer"))
        loads = [load_in_fresh_process(folder) for _ in range(args.rounds)]
    medians = {who: round(statistics.median(values), 3) for who, values in seconds.items()}
    result = {
        "files": args.files,
        "peer": peer,
        "median_seconds": medians,
        "times_as_fast": round(medians["peer"] / medians["ours"], 2),
        "rounds": {who: [round(value, 3) for value in values] for who, values in seconds.items()},
        "loading": {
            "lines": loads[0]["lines"],
            "median_seconds": round(statistics.median(load["seconds"] for load in loads), 3),
            "most_mebibytes": round(max(load["mebibytes"] for load in loads), 1),
        },
    }
    path = results_file.write(args.name, result)
    print(json.dumps({key: result[key] for key in ("median_seconds", "times_as_fast", "loading")}, indent=1))
    print("results:", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
