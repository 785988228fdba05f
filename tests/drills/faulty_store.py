"""Train from an object store that fails: does the run end with the weights of a run from local files?

    python -m tests.drills.faulty_store [--tries N] [--seed S] [--down SECONDS] [--workers 0,1,3]

moto's server holds the bucket. A proxy before it answers 5 % of requests with 503, cuts 2 % of bodies short, and dies for
30 seconds in the middle of the run; the watchdog's limit is shorter than that. Needs s3fs and moto.

Tries alternate between single objects and a tar shard, and take the numbers of workers in turn. Then the store refuses the key, and an object is missing: each
must be one clear error that names the object, without a quarantined file.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from tests.drills.forked import Outcome, Tally
from tests.drills.kills import Life, Setup, comparable, load, make_corpus, unequal
from tests.object_store import Faults, Proxy, environment, moto, upload

BUSY, CUT = 0.05, 0.02
UPDATES = 60
WATCHDOG = 15  # seconds
OVERRIDES = (
    f"optimization.max_update={UPDATES}",
    "checkpoint.save_interval_updates=20",
    "dataset.validate_interval_updates=20",
    f"distributed_training.heartbeat_timeout={WATCHDOG}",
    "common.log_interval=1",
)
FORMS = ("objects", "shard")


def put_into_store(corpus: Path, url: str) -> None:
    """Upload the corpus, as single objects and as a shard, and write a folder of manifests for each."""
    files = sorted((corpus / "audio").glob("*.wav"))
    with tarfile.open(corpus / "all.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for file in files:
            tar.add(file, file.name)
    with tarfile.open(corpus / "all.tar") as tar:
        places = {f"audio/{member.name}": f"all.tar:{member.offset_data}:{member.size}" for member in tar.getmembers()}
    upload(url, "corpus", {**{f"audio/{file.name}": file for file in files}, "all.tar": corpus / "all.tar"})
    for form in FORMS:
        (corpus / form).mkdir()
        for split in ("train", "valid"):
            lines = (corpus / f"{split}.tsv").read_text().splitlines()[1:]
            if form == "shard":
                lines = ["\t".join([places[name], frames]) for name, _, frames in (x.partition("\t") for x in lines)]
            (corpus / form / f"{split}.tsv").write_text("\n".join(["s3://corpus", *lines]) + "\n")


def life(corpus: Path, data: Path, work: Path, *overrides: str) -> Life:
    work.mkdir(parents=True, exist_ok=True)
    return Life(Setup("pretraining", (*OVERRIDES, f"task.data={data}", *overrides)), corpus, work)


def one_run(
    corpus: Path, form: str, workers: int, proxy: Proxy, work: Path, rng: random.Random, down: float
) -> Outcome:
    """Train while the store fails, and dies once."""
    with_cache = rng.random() < 0.5
    cache = (f"task.cache_dir={work / 'cache'}",) if with_cache else ()
    proxy.faults = Faults(BUSY, CUT)
    proxy.counts.clear()
    running = life(corpus, corpus / form, work, f"dataset.num_workers={workers}", *cache)
    # with a cache, each object is requested once
    killed, after = False, rng.randint(*((8, 20) if with_cache else (40, 120)))
    while not running.ended():
        if not killed and proxy.counts["requests"] >= after:
            killed = True
            proxy.die()
            time.sleep(down)
            proxy.revive()
        time.sleep(0.02)
    said = running.said()
    if running.wait() or not killed:
        return Outcome("died", said[-1500:])
    found = unequal(*(comparable(load(run / "run/checkpoint_last.pt")) for run in (corpus / "local", work)))
    found = [name for name in found if "data_fingerprint" not in name or form == "objects"]  # names in a shard differ
    if found:
        return Outcome("exception", f"other results: {found[:5]}")
    if "cannot be decoded" in said:
        return Outcome("exception", "a file was quarantined")
    return Outcome("right", f"{form}, {workers} workers, {'with' if with_cache else 'no'} cache: {dict(proxy.counts)}")


def one_error(corpus: Path, data: Path, work: Path, *wanted: str) -> Outcome:
    """Start a run that cannot read, and look for one clear error."""
    began = time.monotonic()
    running = life(corpus, data, work, "dataset.num_workers=2")
    status, said = running.wait(), running.said()
    seconds = time.monotonic() - began
    lines = [line for line in said.splitlines() if "cannot read s3://" in line]
    if status == 0 or len(lines) != 1 or any(word not in lines[0] for word in wanted):
        return Outcome("unnamed", f"status {status}, {len(lines)} lines: {said[-1500:]}")
    for bad in ("cannot be decoded", "Traceback"):
        if bad in said:
            return Outcome("exception", said[max(0, said.index(bad) - 200) :][:2000])
    return Outcome("refused", f"after {seconds:.0f} s: {lines[0][-400:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--down", type=float, default=30.0, help="seconds that the store is dead")
    parser.add_argument("--workers", default="0,1,3", help="numbers of data-loading workers, one per try in turn")
    arguments = parser.parse_args()
    turns = [int(number) for number in arguments.workers.split(",")]
    tally = Tally("object stores that fail")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        corpus = Path(folder)
        make_corpus(corpus)
        with moto(corpus / "moto.log") as url, Proxy(url, Faults(), seed=arguments.seed) as proxy:
            os.environ.update(environment(proxy.url))
            put_into_store(corpus, url)
            if life(corpus, corpus, corpus / "local", "dataset.num_workers=0").wait():
                sys.exit((corpus / "local/log").read_text())
            for number in range(arguments.tries):
                rng, form = random.Random(arguments.seed + number), FORMS[number % len(FORMS)]
                work = corpus / f"try{number}"
                workers = turns[number % len(turns)]
                outcome = one_run(corpus, form, workers, proxy, work, rng, arguments.down)
                print(f"try {number}: {outcome.kind}: {outcome.text}", flush=True)
                tally.add(f"try {number}", outcome)
                shutil.rmtree(work, ignore_errors=True)
            proxy.faults = Faults(wrong_key=True)
            wrong = one_error(
                corpus, corpus / "shard", corpus / "key", "s3://corpus/all.tar", "status 403", "credentials"
            )
            proxy.faults = Faults()
            (corpus / "missing").mkdir()
            shutil.copy(corpus / "objects/valid.tsv", corpus / "missing")
            manifest = (corpus / "objects/train.tsv").read_text().replace("audio/7.wav", "audio/gone.wav")
            (corpus / "missing/train.tsv").write_text(manifest)
            missing = one_error(corpus, corpus / "missing", corpus / "gone", "s3://corpus/audio/gone.wav", "status 404")
            for label, outcome in (("wrong key", wrong), ("missing object", missing)):
                print(f"{label}: {outcome.kind}: {outcome.text}", flush=True)
                tally.add(label, outcome)
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
