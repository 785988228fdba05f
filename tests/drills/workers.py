"""Kill data-loading workers at random moments: the run must end soon and say what to do.

Every second kill happens while the workers start.

    python -m tests.drills.workers --tries N [--seed S]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from fairseq.data.batch_workers import WorkerDied
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.initialize import resolve_config
from fairseq_cli import train
from tests.drills.forked import Tally, attempt
from tests.integration.conftest import TINY, make_trainer, write_audio, write_manifest

ADVICE = "dataset.num_workers=0"
SECONDS = 60.0


def make_corpus(folder: Path) -> None:
    files = [folder / "audio" / f"{i:02d}.flac" for i in range(12)]
    for i, file in enumerate(files):
        write_audio(file, 0.6 + 0.1 * i, seed=i)
    write_manifest(folder / "train.tsv", folder, files[:9])
    write_manifest(folder / "valid.tsv", folder, files[9:])


def children_of(parent: int) -> Iterator[int]:
    """Return the children of a process, from /proc."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    yield int(entry.name)


def kill_one_worker(trainer: int, delay: float, as_it_starts: bool, rng: random.Random) -> None:
    """Wait, then kill a worker; with `as_it_starts`, the next one to appear."""
    own = os.getpid()
    time.sleep(delay)
    known = set(children_of(trainer)) if as_it_starts else set()
    while os.getppid() == trainer:
        found = sorted(set(children_of(trainer)) - known - {own})
        if found:
            if as_it_starts:
                time.sleep(rng.uniform(0, 0.02))
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(found), signal.SIGKILL)
            return
        time.sleep(0.001)


def one_run(corpus: Path, seed: int) -> str:
    """Train in this process, while another process kills a worker."""
    rng = random.Random(seed)
    folder = tempfile.mkdtemp(dir=corpus)
    trainer, delay, as_it_starts = os.getpid(), rng.uniform(0, 2.5), seed % 2 == 1
    if os.fork() == 0:
        try:
            kill_one_worker(trainer, delay, as_it_starts, rng)
        finally:
            os._exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    cfg = OmegaConf.create(TINY)
    cfg.task.data, cfg.checkpoint.save_dir = str(corpus), folder
    cfg.checkpoint.save_interval_updates = 20
    cfg.dataset.num_workers, cfg.dataset.validate_interval_updates = 2, 3
    cfg.optimization.max_update = rng.choice([9, 40, 100])
    train.main(resolve_config(cfg))
    return "done"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tally = Tally("killed data-loading workers")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        make_corpus(Path(folder))
        make_trainer(Path(folder), Path(folder))  # its imports are then shared by all tries
        for number in range(arguments.seed, arguments.seed + arguments.tries):
            outcome = attempt(lambda: one_run(Path(folder), number), ADVICE, (WorkerDied, ConfigError), SECONDS)  # noqa: B023
            tally.add(f"seed {number}", outcome)
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
