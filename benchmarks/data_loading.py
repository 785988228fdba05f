#!/usr/bin/env python3
"""Audio loaded into batches per core: this package compared with another fairseq's FileAudioDataset.

    python benchmarks/data_loading.py --peer-python /path/to/venv/bin/python [--rounds 5]

Two cases with generated FLAC files: 60 s files cropped to 15 s, and 14 s files read whole. The two packages alternate
in fresh processes with one thread each. The result is seconds of audio in the batches per second of processor time.
Neither draws masks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
RATE = 16000
ROWS = 4  # utterances per batch
CROP = 15  # seconds
CASES = {"60 s files, 15 s crops": (60, 24), "14 s files": (14, 100)}  # seconds per file, number of files


def make_files(folder: Path, seconds: int, count: int) -> Path:
    """Write noise with speech's spectrum and loudness changes, as costly for FLAC as speech; returns a manifest."""
    import soundfile

    rng = np.random.default_rng(seconds)
    folder.mkdir()
    lines = [str(folder)]
    for number in range(count):
        white = rng.standard_normal(seconds * RATE)
        coloured = np.fft.irfft(np.fft.rfft(white) / (1 + np.arange(len(white) // 2 + 1) / (seconds * 500)))
        loudness = np.repeat(rng.gamma(1.0, size=seconds * 4), RATE // 4)
        wave = coloured * loudness
        soundfile.write(
            folder / f"{number}.flac", (wave / np.abs(wave).max() * 0.5).astype(np.float32), RATE, subtype="PCM_16"
        )
        lines.append(f"{number}.flac\t{len(wave)}")
    manifest = folder / "train.tsv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def load(manifest: str, passes: int) -> dict[str, float]:
    """Load everything in batches with this interpreter's fairseq; the peer's dataset takes the same arguments."""
    import torch

    torch.set_num_threads(1)
    import soundfile  # noqa: F401 - loaded before the clock starts

    from fairseq.data import FileAudioDataset

    dataset = FileAudioDataset(manifest, sample_rate=RATE, max_sample_size=CROP * RATE, pad=False, normalize=False)
    ours = hasattr(dataset, "collate_plan")
    starts = range(0, len(dataset) - ROWS + 1, ROWS)

    def batch(start: int) -> Any:
        indices = range(start, start + ROWS)
        if not ours:
            return dataset.collater([dataset[i] for i in indices])
        from fairseq.data.batching import BatchPlan

        length = min(CROP * RATE, min(int(dataset.sizes[i]) for i in indices))
        return dataset.collate_plan(BatchPlan(np.array(indices), ROWS, length, 0, 1, 0))

    batch(0)  # warm-up: set up what is set up on first use; files are in the page cache
    for start in starts:
        batch(start)
    samples, began = 0, time.process_time()
    for _ in range(passes):
        for start in starts:
            samples += batch(start)["net_input"]["source"].numel()
    return {"audio_seconds": samples / RATE, "processor_seconds": time.process_time() - began}


def run_child(python: str, manifest: Path, passes: int, ours: bool) -> float:
    """Audio seconds per processor second, measured in a fresh process."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY) if ours else "",
    }
    command = [python, str(Path(__file__).resolve()), "--child", str(manifest), "--passes", str(passes)]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, cwd=tempfile.gettempdir()
    ).stdout
    measured = json.loads(output.splitlines()[-1])
    return measured["audio_seconds"] / measured["processor_seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", help="interpreter of an environment that has the other fairseq")
    parser.add_argument("--rounds", type=int, default=5, help="alternations (default: 5)")
    parser.add_argument("--passes", type=int, default=3, help="passes over all files per process (default: 3)")
    parser.add_argument("--name", default="data_loading", help="name of the result file (default: data_loading)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(load(args.child, args.passes)))
        return 0
    if args.peer_python is None:
        parser.error("--peer-python is required: the interpreter of the fairseq to compare with")
    import results_file

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, (seconds, count) in CASES.items():
            manifest = make_files(Path(folder) / f"{seconds}s", seconds, count)
            rates: dict[str, list[float]] = {"ours": [], "peer": []}
            for _ in range(args.rounds):
                rates["ours"].append(run_child(sys.executable, manifest, args.passes, ours=True))
                rates["peer"].append(run_child(args.peer_python, manifest, args.passes, ours=False))
            medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
            ratio = round(
                statistics.median(ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)), 3
            )
            results[case] = {
                "median_audio_seconds_per_processor_second": medians,
                "median_ratio_of_a_round": ratio,
                "rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
            }
            print(
                f"{case}: ours {medians['ours']}, peer {medians['peer']} audio seconds per processor second, ratio "
                f"{ratio}"
            )
    config = {"rows": ROWS, "crop_seconds": CROP, "rounds": args.rounds, "passes": args.passes, "cases": CASES}
    print("results:", results_file.write(args.name, {"config": config, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
