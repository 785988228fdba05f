#!/usr/bin/env python3
"""fairseq-segment: processor time per hour of audio, time for ten hours, and memory for long recordings.

    python benchmarks/segmenting.py [--hours 10] [--workers 2] [--speech ../shared/data/librispeech-mini]

Joins real speech with pauses of 0.2 to 3 s to recordings of one hour, and cuts them with the command. Then it cuts one
recording of 10 minutes and one of 5 hours, and compares the peak memory. Real-time factor: seconds of processor time
per second of audio, which includes decoding FLAC and starting Python.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

REPOSITORY = Path(__file__).resolve().parents[1]
SPEECH = REPOSITORY.parent / "shared" / "data" / "librispeech-mini"
RATE = 16000


def endless_speech(folder: Path, seed: int) -> Iterator[np.ndarray]:
    """Yield utterances in random order, and pauses with noise as quiet as a room between them, for ever."""
    rng = np.random.default_rng(seed)
    files = sorted(folder.rglob("*.flac"))
    while True:
        for number in rng.permutation(len(files)):
            yield soundfile.read(files[number], dtype="float32")[0]
            pause = rng.standard_normal(int(RATE * rng.uniform(0.2, 3))).astype(np.float32)
            yield pause * 10 ** (rng.uniform(-65, -50) / 20)


def write_recording(path: Path, seconds: float, speech: Iterator[np.ndarray]) -> int:
    """Write joined speech as FLAC; returns its frames."""
    left = frames = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        while left > 0:
            wave = next(speech)[:left]
            file.write(wave)
            left -= len(wave)
    return frames


def make(folder: Path, lengths: list[float], speech: Iterator[np.ndarray]) -> Path:
    """Write recordings of these lengths in seconds, and their manifest; returns its path."""
    folder.mkdir()
    frames = {f"{number}.flac": seconds for number, seconds in enumerate(lengths)}
    lines = [f"{name}\t{write_recording(folder / name, seconds, speech)}" for name, seconds in frames.items()]
    manifest = folder / "train.tsv"
    manifest.write_text("\n".join([str(folder), *lines]) + "\n", encoding="utf-8")
    return manifest


def measure(manifest: Path, workers: int) -> dict[str, Any]:
    """Run the command; returns its own result, with seconds, seconds of processor time, and peak memory in MB."""
    command = [sys.executable, "-m", "fairseq_cli.segment", str(manifest), "--dest", str(manifest.parent / "segments")]
    began = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--workers", str(workers), "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)  # of the command and the workers that it has waited for
    if status != 0:
        sys.exit(f"fairseq-segment failed with wait status {status}")
    return {
        "wall_seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
        **json.loads(output),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--hours", type=float, default=10, help="of audio, in recordings of an hour (default: 10)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--speech", type=Path, default=SPEECH, help="folder of FLAC files at 16 kHz")
    parser.add_argument("--long", type=float, default=5, help="hours of the longest recording (default: 5)")
    parser.add_argument("--name", default="segmenting", help="name of the result file (default: segmenting)")
    args = parser.parse_args()
    if not any(args.speech.rglob("*.flac")):
        parser.error(f"{args.speech} has no FLAC files. Name a folder of speech with --speech")
    import results_file

    results_file.PACKAGES = (*results_file.PACKAGES, "silero-vad", "onnxruntime", "soxr")
    speech = endless_speech(args.speech, 1)
    with tempfile.TemporaryDirectory() as folder:
        whole, rest = divmod(args.hours, 1)
        lengths = [3600.0] * int(whole) + ([rest * 3600] if rest else [])
        found = measure(make(Path(folder) / "hours", lengths, speech), args.workers)
        factor = found["processor_seconds"] / (args.hours * 3600)
        print(
            f"{args.hours:g} hours with {args.workers} workers: {found['wall_seconds']:.0f} s, "
            f"{found['processor_seconds']:.0f} s of processor time: {100 * factor:.2f} % of real time per core"
        )
        peaks = {}
        for name, seconds in (("10 minutes", 600.0), (f"{args.long:g} hours", 3600 * args.long)):
            peaks[name] = measure(make(Path(folder) / name, [seconds], speech), 1)["peak_mb"]
            print(f"one recording of {name}: peak memory {peaks[name]:.0f} MB")
    result = {
        "config": {"hours": args.hours, "workers": args.workers},
        "results": {"real_time_factor_per_core": round(factor, 5), **found, "peak_mb_of_one_recording": peaks},
    }
    result["results"].pop("manifest")
    print("results:", results_file.write(args.name, result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
