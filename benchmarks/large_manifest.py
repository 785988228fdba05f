#!/usr/bin/env python3
"""Time and memory of manifests from 10 thousand to 10 million lines: to start, to plan an epoch, and of a worker.

    python benchmarks/large_manifest.py [--lines 10000,100000,1000000,10000000] [--rounds 3]

The lines are made up: members of tar shards, 833 of each (10 million lines: 12 thousand shards), 2 to 20 seconds long.
No audio is read. Each step runs in a fresh process:

first start   the data set is opened and its checksum taken: the manifest is parsed, and from 16 MB on gets an index
later start   the same, but the index is verified and mapped
epoch         the second epoch's order, batches, update order and the first update's plans of one of 8 ranks, without
              and with buckets; memory is the process's largest share (PSS) while it plans
substitutes   the order in which replacements for unreadable files are found
worker        a data-loading worker, forked or spawned, that has looked up the places of 2000 utterances
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
LINES = "10000,100000,1000000,10000000"
A_SHARD = 833  # utterances
RATE, SHORTEST, LONGEST = 16000, 2, 20  # Hz, seconds
MAX_TOKENS, MAX_SAMPLE_SIZE, BUCKETS, RANKS = 1_400_000, 250_000, 11, 8
WORKERS, PLANS = 2, 200
_BLOCK = 100_000  # lines written at a time


def write_manifest(path: Path, lines: int) -> None:
    """Write made-up lines, the same ones each time."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("/data/shards\n")
        for first in range(0, lines, _BLOCK):
            draw = np.random.default_rng([1, first])
            count = min(_BLOCK, lines - first)
            sizes = draw.integers(SHORTEST * RATE, LONGEST * RATE, count).tolist()
            offset = 512
            for number, size in enumerate(sizes, start=first):
                offset = 512 if number % A_SHARD == 0 else offset + size + 1536
                file.write(f"train-{number // A_SHARD:06d}.tar:{offset}:{size}\t{size}\n")


# -- in a fresh process ------------------------------------------------------------------------------------------------


def share() -> float:
    """This process's share of the memory that it uses (PSS), in MB."""
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024 / 1e6


class Meter:
    """Seconds and memory of a block of code."""

    wall = cpu = most = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                self.most = max(self.most, share())

        watcher = threading.Thread(target=watch)
        watcher.start()
        began, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall, self.cpu = time.perf_counter() - began, time.process_time() - cpu
            done.set()
            watcher.join()
            self.most = max(self.most, share())

    def result(self) -> dict[str, float]:
        return {"seconds": round(self.wall, 3), "cpu_seconds": round(self.cpu, 3), "megabytes": round(self.most, 1)}


class Lookup:
    """What a worker does with a plan, but for reading audio."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, plan: Any) -> dict[str, float]:
        length = sum(len(self.dataset.file(int(index))) for index in plan.indices)
        return {"length": length, "samples": int(self.dataset.sizes[plan.indices].sum()), "megabytes": share()}


def open_data(path: str, buckets: int) -> Any:
    from fairseq.data.audio.raw_audio_dataset import FileAudioDataset

    return FileAudioDataset(path, RATE, MAX_SAMPLE_SIZE, pad=buckets > 0, num_buckets=buckets)


def measure(path: str, step: str) -> dict[str, Any]:
    """Run one step."""
    from fairseq.data.audio.quarantine import Substitutes
    from fairseq.data.batch_workers import BatchWorkers
    from fairseq.data.batching import make_batches  # noqa: F401 - imports are not measured
    from fairseq.data.iterators import EpochBatchIterator
    from fairseq.data.options import BatchLimits, LoaderOptions

    meter = Meter()
    if step == "start":
        before = share()
        with meter.running():
            manifest = open_data(path, 0).manifest
            manifest.digest()
        return {**meter.result(), "before_megabytes": round(before, 1), "lines": len(manifest)}
    dataset = open_data(path, BUCKETS if step == "epoch_with_buckets" else 0)
    if step == "substitutes":
        with meter.running():
            Substitutes(dataset.sizes)
        return meter.result()
    limits = BatchLimits(MAX_TOKENS, multiple=8)
    epochs = EpochBatchIterator(
        dataset, lambda epoch: dataset.batches(epoch, limits), LoaderOptions(num_shards=RANKS), epoch=1
    )
    first = epochs.next_epoch_itr()
    if step.startswith("epoch"):
        epochs.load_state_dict({**epochs.state_dict(), "epoch": 2})  # the first epoch's plan is still held
        with meter.running():
            updates = epochs.next_epoch_itr()
            next(updates._plans)
        return {**meter.result(), "updates": len(updates)}
    method = step.removeprefix("worker_")
    plans = [plan for update, _ in zip(first._plans, range(PLANS), strict=False) for plan in update][:PLANS]
    workers = BatchWorkers(Lookup(dataset), iter(plans), WORKERS, 2, method)
    found = [batch["megabytes"] for batch in workers][-WORKERS:]
    own = share()
    workers.close()
    return {
        "megabytes": round(max(found), 1),
        "main_megabytes": round(own, 1),
        "all_megabytes": round(own + sum(found)),
    }


# -- all of them -------------------------------------------------------------------------------------------------------

STEPS = ("epoch", "epoch_with_buckets", "substitutes", "worker_fork", "worker_spawn")


def in_fresh_process(path: Path, step: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(path), "--step", step]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def of_rounds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of times, and the largest memory."""
    result = dict(runs[-1])
    for key in ("seconds", "cpu_seconds"):
        if key in result:
            result[key] = round(statistics.median(run[key] for run in runs), 3)
            result[f"{key}_spread"] = [min(run[key] for run in runs), max(run[key] for run in runs)]
    if "megabytes" in result:
        result["megabytes"] = max(run["megabytes"] for run in runs)
    return result


def measure_lines(folder: Path, lines: int, rounds: int) -> dict[str, Any]:
    """Measure all steps with a manifest of this many lines."""
    path = folder / f"{lines}.tsv"
    write_manifest(path, lines)
    index = Path(f"{path}.index")
    starts = []
    for _ in range(rounds):
        index.unlink(missing_ok=True)
        starts.append(in_fresh_process(path, "start"))
    result = {
        "lines": lines,
        "manifest_megabytes": round(path.stat().st_size / 1e6, 1),
        "index_megabytes": round(index.stat().st_size / 1e6, 1) if index.exists() else 0,
        "first_start": of_rounds(starts),
        "later_start": of_rounds([in_fresh_process(path, "start") for _ in range(rounds)]),
    }
    result |= {step: of_rounds([in_fresh_process(path, step) for _ in range(rounds)]) for step in STEPS}
    path.unlink()
    index.unlink(missing_ok=True)
    return result


def table(results: list[dict[str, Any]], key: str = "seconds") -> list[str]:
    """Return the results as a Markdown table."""
    rows = [
        "| lines | first start | later start | epoch | with buckets | substitutes | planning | forked worker "
        "| spawned worker | all |",
        "| ---: " * 10 + "|",
    ]
    for found in results:
        times = [found[step][key] for step in ("first_start", "later_start", *STEPS[:3])]
        most = max(found[step]["megabytes"] for step in STEPS[:2])
        workers = [found[step]["megabytes"] for step in STEPS[3:]]
        together = max(most, *(found[step]["all_megabytes"] for step in STEPS[3:]))
        memory = (f"{megabytes:.0f} MB" for megabytes in (most, *workers, together))
        rows.append("| " + " | ".join([f"{found['lines']:,}", *(f"{time:.2f} s" for time in times), *memory]) + " |")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--lines", default=LINES, help=f"numbers of lines (default: {LINES})")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each step; times are medians (default: 3)")
    parser.add_argument("--work", help="folder for the manifests (default: a temporary one)")
    parser.add_argument("--cpu", action="store_true", help="print CPU seconds instead of wall time, for a busy machine")
    parser.add_argument("--name", default="large_manifest", help="name of the result file (default: large_manifest)")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.step)))
        return 0
    import results_file

    results = []
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for lines in map(int, args.lines.split(",")):
            results.append(measure_lines(Path(folder), lines, args.rounds))
            print(f"{lines:,} lines measured", file=sys.stderr)
    path = results_file.write(args.name, {"workers": WORKERS, "ranks": RANKS, "buckets": BUCKETS, "results": results})
    print("\n".join(table(results, "cpu_seconds" if args.cpu else "seconds")))
    print("all: the most at one time, while the epoch is planned or with two workers")
    print("results:", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
