"""SIGKILLs of fairseq-segment at random moments: is the manifest byte for byte that of an unbroken run?

    python -m tests.drills.segment_kills [--tries 30] [--seed 1] [--workers 2]

Each try segments the same recordings, kills the command and with it its workers at a random moment, up to three times,
and reruns it until it ends. A recording that is recorded as finished must not be read again: the drill compares the
number of those with what the next run says.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from fairseq.corpora.cuts import segmenting
from fairseq.corpora.cuts.detector import RATE
from fairseq.corpora.cuts.settings import CutSettings
from tests.drills.forked import Outcome, Tally
from tests.drills.pauses import synthetic

RECORDINGS, MINUTES = 24, 3
_TASK = 60 * RATE  # frames: more tasks, so that kills come between them


def make_corpus(folder: Path) -> Path:
    """Write sections of the demo's speech; returns their manifest."""
    rng = np.random.default_rng(0)
    wave = synthetic(MINUTES, 1).wave
    lines = [str(folder)]
    for number, first in enumerate(rng.integers(0, len(wave) // 2, RECORDINGS).tolist()):
        section = wave[first : first + round(rng.uniform(8, 60) * RATE)]
        soundfile.write(folder / f"{number}.flac", section, RATE)
        lines.append(f"{number}.flac\t{len(section)}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder / "train.tsv"


def finished(dest: Path) -> int:
    """Count whole lines of the journal, without the first."""
    journal = dest / "train.segments.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def segment(manifest: Path, dest: Path, workers: int) -> int:
    """Start a run in a forked child, and return its process."""
    child = os.fork()
    if child == 0:
        before = finished(dest)
        found = segmenting.segment(str(manifest), str(dest), CutSettings(), workers)
        os._exit(0 if found.done_before == before else 2)
    return child


def attempt(
    manifest: Path, dest: Path, unbroken: bytes, seconds: float, workers: int, choice: random.Random
) -> Outcome:
    kills = 0
    for _ in range(choice.randint(1, 3)):
        child = segment(manifest, dest, workers)
        time.sleep(choice.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    status = os.waitpid(segment(manifest, dest, workers), 0)[1]
    if status != 0:
        return Outcome("status", f"{status}; 512: finished recordings were read again")
    left = [path.name for path in dest.iterdir() if path.name not in ("train.tsv", "train.segments.jsonl")]
    if left:
        return Outcome("left", str(left))
    if (dest / "train.tsv").read_bytes() != unbroken:
        return Outcome("unequal", str(dest))
    return Outcome("right", str(kills))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    choice, tally, kills = random.Random(args.seed), Tally("kills of fairseq-segment"), 0
    segmenting._TASK = _TASK
    with tempfile.TemporaryDirectory(prefix="kills.") as folder:
        manifest = make_corpus(Path(folder))
        began = time.monotonic()
        os.waitpid(segment(manifest, Path(folder) / "unbroken", args.workers), 0)
        seconds = time.monotonic() - began
        unbroken = (Path(folder) / "unbroken" / "train.tsv").read_bytes()
        assert unbroken.count(b"\n") > RECORDINGS, "no segments"
        for number in range(args.tries):
            outcome = attempt(manifest, Path(folder) / str(number), unbroken, seconds, args.workers, choice)
            kills += int(outcome.text) if outcome.kind == "right" else 0
            tally.add(f"try {number}", outcome)
    print(f"{kills} kills in the runs that ended right")
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
