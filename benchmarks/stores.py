#!/usr/bin/env python3
"""Audio loaded into batches from files, archives, other packages' loaders, and an object store.

    python benchmarks/stores.py --peer-python /path/to/venv/bin/python [--rounds 5] [--name stores]

The same generated 14 s FLAC recordings lie in files, in a stored zip, in a tar shard, in Lhotse's Shar (its own form,
with the bytes unchanged), and in a loopback S3 store that adds 20 ms to each answer. Per core: seconds of audio in
batches per second of processor time, in fresh processes that alternate, with a warm page cache. webdataset reads the
same tar shard. From S3: seconds of audio per second with four data-loading workers, compared with local files; each
round reads everything from the store, without a cache. The store is a light one of the tests, in a process of its own
on the same cores; the share of the machine that it takes is printed. The machine should be idle for that part; the
processor time of the loader alone, which is printed too, can be measured beside other work.

Needs s3fs; webdataset and lhotse in the peer's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
RATE, ROWS, SECONDS = 16_000, 4, 14
LATENCY = 0.02  # seconds
WORKERS = 4
TAR_GOAL, S3_GOAL = 0.95, 0.8  # of files
LOCAL, PEERS, FAR = ("files", "zip", "tar"), ("webdataset", "lhotse"), ("s3_tar", "s3_objects")


def write_forms(folder: Path, count: int) -> None:
    """Write the recordings, and manifests of the forms that this package reads."""
    from data_loading import make_files

    make_files(folder / "files", SECONDS, count)
    files = [folder / f"files/{number}.flac" for number in range(count)]
    frames = SECONDS * RATE
    for form in ("zip", "tar", *FAR):
        (folder / form).mkdir()
    with zipfile.ZipFile(folder / "zip/a.zip", "w", zipfile.ZIP_STORED) as archive:
        places = []
        for file in files:
            archive.write(file, file.name)
            places.append(f"a.zip:{archive.fp.tell() - file.stat().st_size}:{file.stat().st_size}")  # type: ignore[union-attr]
    write_manifest(folder / "zip", str(folder / "zip"), places, frames)
    with tarfile.open(folder / "tar/a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for file in files:
            archive.add(file, f"k{file.name}")
            (folder / "meta").write_text("{}")
            archive.add(folder / "meta", f"k{file.stem}.json")
    with tarfile.open(folder / "tar/a.tar") as archive:
        places = [f"a.tar:{m.offset_data}:{m.size}" for m in archive.getmembers() if m.name.endswith(".flac")]
    write_manifest(folder / "tar", str(folder / "tar"), places, frames)
    write_manifest(folder / "s3_tar", "s3://bench", places, frames)
    write_manifest(folder / "s3_objects", "s3://bench", [file.name for file in files], frames)


def write_manifest(folder: Path, root: str, places: list[str], frames: int) -> None:
    (folder / "train.tsv").write_text("\n".join([root, *(f"{place}\t{frames}" for place in places)]) + "\n")


# -- in a child --------------------------------------------------------------------------------------------------------


def processor_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def load(manifest: str, workers: int, passes: int) -> dict[str, float]:
    """Load everything in batches, in this process or in workers."""
    import torch

    from fairseq.data import FileAudioDataset
    from fairseq.data.batch_workers import BatchWorkers, Failure
    from fairseq.data.batching import BatchPlan

    torch.set_num_threads(1)
    dataset = FileAudioDataset(manifest, sample_rate=RATE, max_sample_size=SECONDS * RATE)
    order = np.random.default_rng(0).permutation(len(dataset))
    plans = [
        BatchPlan(order[start : start + ROWS], ROWS, SECONDS * RATE, 0, 1, 0)
        for start in range(0, len(dataset) - ROWS + 1, ROWS)
    ]
    dataset.collate_plan(plans[0])
    if workers == 0:
        for plan in plans:
            dataset.collate_plan(plan)
    samples, began, used = 0, time.perf_counter(), processor_seconds()
    batches = None
    if workers:
        batches = BatchWorkers(dataset.collate_plan, iter(plans * passes), workers, 4, expect=dataset.expect_plan)
    for batch in map(dataset.collate_plan, plans * passes) if batches is None else batches:
        if isinstance(batch, Failure):
            raise RuntimeError(batch.message)
        samples += batch["net_input"]["source"].numel()
    seconds = time.perf_counter() - began
    if batches is not None:
        batches.close()
    return {"audio": samples / RATE, "seconds": seconds, "processor_seconds": processor_seconds() - used}


def load_as_peer(peer: str, folder: str, passes: int) -> dict[str, float]:
    """Load everything in batches with another package's loader. Imports nothing of this package."""
    import io

    import soundfile
    import torch

    torch.set_num_threads(1)

    def decode(key: str, data: bytes) -> np.ndarray | None:
        return soundfile.read(io.BytesIO(data), dtype="float32")[0] if key.endswith("flac") else None

    def epoch() -> float:
        samples = 0
        if peer == "webdataset":
            import webdataset

            data = webdataset.WebDataset(f"{folder}/tar/a.tar", shardshuffle=False).decode(decode).to_tuple("flac")
            for (waves,) in data.batched(ROWS, collation_fn=lambda rows: (np.stack([row[0] for row in rows]),)):
                samples += torch.from_numpy(waves).numel()
            return samples / RATE
        from lhotse import CutSet

        rows: list[np.ndarray] = []
        for cut in CutSet.from_shar(in_dir=f"{folder}/shar"):
            rows.append(cut.load_audio()[0])
            if len(rows) == ROWS:
                samples += torch.from_numpy(np.stack(rows)).numel()
                rows = []
        return samples / RATE

    epoch()
    began, used = time.perf_counter(), processor_seconds()
    audio = sum(epoch() for _ in range(passes))
    return {
        "audio": audio,
        "seconds": time.perf_counter() - began,
        "processor_seconds": processor_seconds() - used,
    }


def write_shar(folder: str) -> None:
    """Write Lhotse's form of the recordings, with the bytes unchanged."""
    from lhotse import CutSet, Recording

    files = sorted(Path(folder, "files").glob("*.flac"), key=lambda file: int(file.stem))
    cuts = CutSet.from_cuts(Recording.from_file(file).to_cut() for file in files)
    Path(folder, "shar").mkdir()
    cuts.to_shar(f"{folder}/shar", fields={"recording": "original"}, shard_size=1000)


# -- the parent --------------------------------------------------------------------------------------------------------


def child(python: str, *arguments: str, ours: bool = True, **variables: str) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **variables}
    environment["PYTHONPATH"] = str(REPOSITORY) if ours else ""
    command = [python, str(Path(__file__).resolve()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tempfile.gettempdir())
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def per_core(folder: Path, peer_python: str | None, rounds: int, passes: int) -> dict[str, list[float]]:
    """Return seconds of audio per second of processor time, one number per round."""
    peers = PEERS if peer_python is not None else ()
    if peer_python is not None:
        child(peer_python, "--write-shar", str(folder), ours=False)
    rates: dict[str, list[float]] = {form: [] for form in (*LOCAL, *peers)}
    for number in range(rounds):
        for form in rates if number % 2 else reversed(rates):
            if form in peers and peer_python is not None:
                measured = child(peer_python, "--peer", form, str(folder), "--passes", str(passes), ours=False)
            else:
                measured = child(sys.executable, "--child", str(folder / form), "--passes", str(passes))
            rates[form].append(measured["audio"] / measured["processor_seconds"])
    return rates


class FromStore(NamedTuple):
    """Rates with workers, one number per round."""

    per_second: dict[str, list[float]]  # seconds of audio per second
    per_processor_second: dict[str, list[float]]  # of the loader's processes
    server_share: dict[str, list[float]]  # of the machine's cores


def from_s3(folder: Path, rounds: int, passes: int) -> FromStore:
    """Load with workers, from files and from the store."""
    sys.path.insert(0, str(REPOSITORY))
    from tests.light_store import light_store, server_seconds
    from tests.object_store import environment

    forms = ("files", *FAR)
    found = FromStore(*({form: [] for form in forms} for _ in FromStore._fields))
    bucket = folder / "buckets/bench"
    bucket.mkdir(parents=True)
    for file in (*(folder / "files").glob("*.flac"), folder / "tar/a.tar"):
        (bucket / file.name).symlink_to(file)
    with light_store(folder / "buckets", LATENCY) as (url, pid):
        for number in range(rounds):
            for form in forms if number % 2 else forms[::-1]:
                served = server_seconds(pid)
                measured = child(
                    sys.executable,
                    *("--child", str(folder / form), "--workers", str(WORKERS), "--passes", str(passes)),
                    **environment(url),
                )
                served = server_seconds(pid) - served
                found.per_second[form].append(measured["audio"] / measured["seconds"])
                found.per_processor_second[form].append(measured["audio"] / measured["processor_seconds"])
                found.server_share[form].append(served / measured["seconds"] / (os.cpu_count() or 1))
    return found


def against_files(rates: dict[str, list[float]]) -> dict[str, dict[str, object]]:
    """Return medians, and the median over the rounds of the ratio to files."""
    return {
        form: {
            "median": round(statistics.median(values), 1),
            "share_of_files": round(statistics.median(a / b for a, b in zip(values, rates["files"], strict=True)), 3),
            "rounds": [round(value, 1) for value in values],
        }
        for form, values in rates.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", help="interpreter of an environment with webdataset, lhotse and soundfile")
    parser.add_argument("--rounds", type=int, default=5, help="alternations (default: 5)")
    parser.add_argument("--passes", type=int, default=3, help="passes over all recordings (default: 3)")
    parser.add_argument("--count", type=int, default=200, help="recordings (default: 200)")
    parser.add_argument("--skip-s3", action="store_true", help="leave out the object store")
    parser.add_argument("--name", default="stores", help="name of the result file (default: stores)")
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    for hidden in ("--child", "--write-shar"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(load(f"{args.child}/train.tsv", args.workers, args.passes)))
        return 0
    if args.peer:
        print(json.dumps(load_as_peer(*args.peer, args.passes)))
        return 0
    if args.write_shar:
        write_shar(args.write_shar)
        return 0
    import results_file

    with tempfile.TemporaryDirectory() as name:
        write_forms(Path(name), args.count)
        core = against_files(per_core(Path(name), args.peer_python, args.rounds, args.passes))
        for form, row in core.items():
            print(
                f"{form}: {row['median']} s of audio per processor second, {row['share_of_files']} of files", flush=True
            )
        print(f"tar of files: {core['tar']['share_of_files']} (goal: {TAR_GOAL})", flush=True)
        store = None if args.skip_s3 else from_s3(Path(name), args.rounds, args.passes)
    far: dict[str, dict[str, object]] = {}
    if store is not None:
        wall, used = against_files(store.per_second), against_files(store.per_processor_second)
        for form in wall:
            served = round(statistics.median(store.server_share[form]), 3)
            far[form] = {"wall": wall[form], "processor": used[form], "server_share_of_machine": served}
            print(
                f"{form}, {WORKERS} workers: {wall[form]['median']} s of audio per second, "
                f"{wall[form]['share_of_files']} of files; {used[form]['median']} per processor second of the loader, "
                f"{used[form]['share_of_files']} of files; the server takes {served:.1%} of the machine"
            )
        print(f"S3 of files: shard {wall['s3_tar']['share_of_files']}, objects {wall['s3_objects']['share_of_files']}")
        print(f"(goal: {S3_GOAL}, server included)")
    config = {"rows": ROWS, "seconds": SECONDS, "count": args.count, "rounds": args.rounds, "passes": args.passes}
    config |= {"workers": WORKERS, "latency_seconds": LATENCY}
    results = {"audio_seconds_per_processor_second": core, "with_workers": far}
    print("results:", results_file.write(args.name, {"config": config, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
