"""SIGKILLs of `fairseq-pack` at random moments: are the shards byte for byte those of an unbroken command?

    python -m tests.drills.pack_kills [--tries 30] [--seed 0] [--peers PYTHON]

Each try packs a made-up corpus, in one of four forms and with 1 to 3 workers. The command is killed up to four times:
after a random time, or as soon as a file appears, disappears or gets its final name. Then it runs to its end. All files
must equal those of the unbroken command; shards that were finished before a kill must be the same files, not written
again; and no worker may outlive the command.

With --peers, the shards are then read by `webdataset` and `datasets` in the environment of that PYTHON, and what they
yield is compared with what the manifest says.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from fairseq.corpora.pack.record import RECORD
from fairseq.data.audio.audio_utils import mmap_read, parse_path
from fairseq.data.audio.manifest import Manifest
from fairseq_cli import pack
from tests.drills.forked import Outcome, Tally
from tests.drills.pack_peers import digest

FILES, RATE = 90, 16000
KILLS = 4
SECONDS = 120.0  # time limit of one command
LINGER = 5.0  # seconds that a worker may take to end after its command was killed
ALLOWED = (0, pack.SOME_LEFT_OUT)


# -- corpora -----------------------------------------------------------------------------------------------------------


def make_corpora(folder: Path) -> dict[str, Path]:
    """Write one corpus in four forms; some files are damaged, and some names occur twice."""
    lines = []
    for number in range(FILES):
        rng = np.random.default_rng(number)
        samples = int(RATE * rng.uniform(0.5, 4))
        wave = 0.2 * np.sin(np.cumsum(rng.uniform(0.01, 0.3, samples))) + 0.01 * rng.standard_normal(samples)
        path = folder / f"audio/{number % 3}" / f"{number // 3:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, RATE, subtype="PCM_16")
        lines.append({"audio_filepath": str(path), "text": f"number {number}", "speaker": f"s{number % 7}"})
    for number in (0, 40, 89):
        Path(lines[number]["audio_filepath"]).write_bytes(b"damaged" * 100)
    nemo = folder / "nemo.jsonl"
    # long facts, so that a kill finds some of an unfinished shard's utterances written
    nemo.write_text("".join(json.dumps({**line, "note": "long" * 1000}) + "\n" for line in lines))
    listed = [line for number, line in enumerate(lines) if number not in (0, 40, 89)]
    tsv = folder / "list.tsv"
    frames = [soundfile.info(line["audio_filepath"]).frames for line in listed]
    tsv.write_text("/\n" + "".join(f"{line['audio_filepath']}\t{n}\n" for line, n in zip(listed, frames, strict=True)))
    (folder / "list.wrd").write_text("".join(line["text"].upper() + "\n" for line in listed))
    return {"folder": folder / "audio", "nemo": nemo, "manifest": tsv, **_parquet(folder, lines)}


def _parquet(folder: Path, lines: list[dict[str, str]]) -> dict[str, Path]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        print("pyarrow is not installed: no parquet files")
        return {}
    audio = [{"bytes": Path(line["audio_filepath"]).read_bytes(), "path": "same.wav"} for line in lines]
    table = pyarrow.table({"audio": audio, "text": [line["text"] for line in lines]})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=20)
    return {"parquet": folder / "rows.parquet"}


# -- the command -------------------------------------------------------------------------------------------------------


class Command:
    """`fairseq-pack` in a fork of this process, with its own process group."""

    def __init__(self, source: Path, dest: Path, workers: int) -> None:
        self.log = dest.with_name(dest.name + ".log")
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            arguments = [str(source), "--dest", str(dest), "--shard-size", "600KB", "--max-left-out", "0.2"]
            os._exit(pack.cli_main([*arguments, "--workers", str(workers)]))
        self.deadline = time.monotonic() + SECONDS

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, or the command ends."""
        while not condition() and not self.has_ended():
            if time.monotonic() > self.deadline:
                self.kill()
                raise TimeoutError(f"no end after {SECONDS:.0f} s")
            time.sleep(0.0005)

    def kill(self) -> None:
        """Kill the command, but not its workers, and check that they end too."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        deadline = time.monotonic() + LINGER
        while _lives(self.pid):
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError("workers outlive the command")
            time.sleep(0.005)

    def finish(self) -> int:
        self.until(lambda: False)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _lives(group: int) -> bool:
    """Whether a process of this group runs; those that only wait to be reaped do not."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                return True
    return False


# -- tries -------------------------------------------------------------------------------------------------------------


class Whole(NamedTuple):
    """An unbroken command."""

    files: dict[str, bytes]
    seconds: float


def contents(dest: Path) -> dict[str, bytes]:
    """Return all files, with the destination's own name left out."""
    return {path.name: path.read_bytes().replace(str(dest).encode(), b"DEST") for path in dest.iterdir()}


def without_checksum_of_root(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave the line of the manifest, which names the destination, out of the checksums."""
    lines = files["SHA256SUMS"].splitlines(keepends=True)
    return {**files, "SHA256SUMS": b"".join(line for line in lines if not line.endswith(b"train.tsv\n"))}


def finished_shards(dest: Path) -> dict[str, tuple[int, int]]:
    """Return file number and time of the shards that are recorded as finished and have their final names."""
    record = dest / ("train" + RECORD)
    lines = record.read_bytes().split(b"\n")[1:-1] if record.exists() else []
    names = [json.loads(line).get("file") for line in lines]
    return {
        name: ((dest / name).stat().st_ino, (dest / name).stat().st_mtime_ns)
        for name in names
        if name and (dest / name).exists()
    }


def attempt(source: Path, dest: Path, whole: Whole, draw: random.Random) -> Outcome:
    """Kill and continue a command, and compare."""
    kills, finished = 0, dict[str, tuple[int, int]]()
    for _ in range(draw.randint(1, KILLS)):
        command = Command(source, dest, draw.randint(1, 3))
        moment(command, dest, whole.seconds, draw)
        if command.has_ended():
            code = command.finish()
            if code not in ALLOWED:
                return Outcome("exception", command.log.read_text())
            break
        command.kill()
        kills += 1
        now = finished_shards(dest)
        if {name: now.get(name) for name in finished} != finished:
            return Outcome("exception", f"finished shards were written again: {finished} {now}")
        finished = now
    command = Command(source, dest, draw.randint(1, 3))
    if command.finish() not in ALLOWED:
        return Outcome("exception", command.log.read_text())
    now = finished_shards(dest)
    if {name: now.get(name) for name in finished} != finished:
        return Outcome("exception", f"finished shards were written again: {finished} {now}")
    found, expected = without_checksum_of_root(contents(dest)), without_checksum_of_root(whole.files)
    different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if different:
        return Outcome("exception", f"after {kills} kills, these files differ: {', '.join(different)}")
    return Outcome("right", str(kills))


def moment(command: Command, dest: Path, seconds: float, draw: random.Random) -> None:
    """Wait for the moment of a kill."""
    end = time.monotonic() + draw.uniform(0, seconds)
    if draw.random() < 0.5:
        command.until(lambda: time.monotonic() > end)
        return
    wanted = draw.randint(1, 12)  # of the changes in the folder
    seen: list[list[str]] = []

    def changed() -> bool:
        names = sorted(os.listdir(dest)) if dest.exists() else []
        if not seen or names != seen[-1]:
            seen.append(names)
        return len(seen) > wanted

    command.until(changed)
    time.sleep(draw.uniform(0, 0.003))


def compare_with_peers(dest: Path, python: str) -> bool:
    """Read the shards with other packages; print and return whether they yield what the manifest says."""
    manifest = Manifest(dest / "train.tsv")
    facts = [json.loads(line) for line in (dest / "train.jsonl").read_text().splitlines()]

    def ours(number: int) -> tuple[str, bytes, dict[str, object], str]:
        file, member = parse_path(manifest.file(number))
        return facts[number]["key"], mmap_read(file, *member), facts[number], facts[number].get("text", "")

    expected = digest(map(ours, range(len(manifest))))
    script = Path(__file__).with_name("pack_peers.py")
    done = subprocess.run(
        [python, str(script), str(dest), "train"], capture_output=True, text=True, cwd=dest, check=False
    )
    if done.returncode != 0:
        print(done.stderr)
        return False
    found = json.loads(done.stdout.splitlines()[-1])
    for way, result in found.items():
        verdict = "equal" if result == expected else f"DIFFERENT from the manifest's {expected}"
        print(f"{way}: {result['utterances']} utterances, {verdict}")
    return all(result == expected for result in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has webdataset and datasets")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpora, wholes = make_corpora(folder / "corpus"), {}
        for form, source in corpora.items():
            dest, start = folder / f"whole-{form}", time.monotonic()
            code = Command(source, dest, 2).finish()
            assert code in ALLOWED, (folder / f"whole-{form}.log").read_text()
            wholes[form] = Whole(contents(dest), time.monotonic() - start)
            shards = sum(file.endswith(".tar") for file in wholes[form].files)
            print(f"{form}: {shards} shards, {wholes[form].seconds:.2f} s unbroken", flush=True)
        tally, kills = Tally("fairseq-pack, killed and continued"), 0
        for number in range(args.tries):
            form = draw.choice(sorted(corpora))
            dest = folder / f"try-{number}"
            outcome = attempt(corpora[form], dest, wholes[form], draw)
            kills += int(outcome.text) if outcome.kind == "right" else 0
            tally.add(f"try {number}, {form}", outcome)
            shutil.rmtree(dest, ignore_errors=True)
        good = tally.report()
        print(f"kills: {kills}")
        if args.peers:
            for form in corpora:
                print(f"{form}:")
                good &= compare_with_peers(folder / f"whole-{form}", args.peers)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
