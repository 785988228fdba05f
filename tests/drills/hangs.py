"""Faults that could hang a run or leave processes behind: the run must end in limited time and report why.

python -m tests.drills.hangs [SCENARIO ...] [--tries N] [--seed S]
python -m tests.drills.hangs --healthy MINUTES    no fault: the watchdog must not say anything
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fairseq.distributed.exit_status import HUNG
from fairseq.distributed.progress import look_at
from tests.drills.forked import Outcome, Tally
from tests.drills.workers import children_of, make_corpus
from tests.integration.conftest import REPOSITORY, TINY

ENDLESS = (
    "optimization.max_update=1000000",
    "checkpoint.save_interval_updates=100000",
    "dataset.validate_interval_updates=5",
)
USUAL = ("common.log_interval=1", "common.user_dir=plug_in")
# reads from a lost network file system block forever
STORAGE = """import time
from pathlib import Path
from fairseq.data.audio import audio_utils
from fairseq.data.audio.raw_audio_dataset import RawAudioDataset
old, old_contents = RawAudioDataset.collate_plan, audio_utils.contents
def wait(self, plan):
    while Path("gone").exists():
        time.sleep(0.1)
    return old(self, plan)
def contents(path):
    if Path("mount").exists():
        open("mount")  # a pipe that nobody writes to: blocks in the kernel, as a mount that does not answer
    return old_contents(path)
RawAudioDataset.collate_plan = wait
audio_utils.contents = contents
"""
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--nnodes=1", "--master_port={port}")


class Fault(Exception):
    """A fault found in a try."""


class Drill(NamedTuple):
    """A folder with a corpus, and commands that each run in their own folder."""

    corpus: Path
    rng: random.Random

    def start(self, *overrides: str, launcher: tuple[str, ...] = (), before: tuple[str, ...] = ()) -> Run:
        folder = Path(tempfile.mkdtemp(dir=self.corpus))
        (folder / "tiny.yaml").write_text(TINY)
        (folder / "plug_in").mkdir()
        (folder / "plug_in" / "__init__.py").write_text(STORAGE)
        words = [word.format(port=self.rng.randrange(20000, 30000)) for word in launcher]
        command = [
            *before,
            sys.executable,
            *words,
            "-m",
            "fairseq_cli.hydra_train",
            f"task.data={self.corpus}",
            "--config-dir",
            ".",
        ]
        return Run(folder, [*command, "--config-name", "tiny", *USUAL, *overrides])


class Run:
    """A running command; all its descendants have a mark in their environment."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder, self.mark = folder, f"DRILL={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", name: value}
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_heed_signals,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, pattern: str, seconds: float = 400) -> None:
        """Wait until the log matches a pattern."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Fault(f"the log never had {pattern!r}:\n{self.output[-1500:]}")
            time.sleep(0.05)

    def ranks(self) -> list[int]:
        """Return the spawned processes, or torchrun's, starting with rank 0."""
        found = [
            pid
            for pid in children_of(self.process.pid)
            if b"spawn_main" in _command(pid) or b"hydra_train" in _command(pid)
        ]
        return sorted(found)

    def lose_the_storage(self) -> None:
        """Stop all batches from now on."""
        (self.folder / "gone").touch()
        time.sleep(1.5)

    def workers(self, trainer: int) -> list[int]:
        """Return the data-loading workers of a process."""
        return sorted(pid for pid in children_of(trainer) if b"resource_tracker" not in _command(pid))

    def end(self, seconds: float, status: int | None = None) -> str:
        """Return the output of the command, which must end by itself, without leftover processes or a traceback."""
        began = time.monotonic()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Fault(f"no end after {seconds:.0f} s:\n{self.output[-1500:]}") from error
        while left := self.left():
            if time.monotonic() - began > seconds:
                raise Fault(f"processes {left} are left:\n{self.output[-1500:]}")
            time.sleep(0.2)
        if status is not None and self.process.returncode != status:
            raise Fault(f"status {self.process.returncode}, not {status}:\n{self.output[-1500:]}")
        return self.output

    def plain_end(self, seconds: float, *needles: str, status: int | None = None) -> str:
        output = self.end(seconds, status)
        missing = [needle for needle in needles if not re.search(needle, output)]
        if missing or "Traceback" in output:
            raise Fault(f"{'a traceback' if 'Traceback' in output else f'the log lacks {missing}'}:\n{output[-1500:]}")
        return output

    def left(self) -> list[int]:
        return [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self.mark.encode() in _environment(pid)
        ]

    def kill(self) -> None:
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def _heed_signals() -> None:
    """Restore signal handlers: a shell's background job, and what it starts, ignores SIGINT."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> bytes:
    return _read(pid, "cmdline")


def _environment(pid: int) -> bytes:
    return _read(pid, "environ")


# -- scenarios ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(drill: Drill, *overrides: str, **how: tuple[str, ...]) -> Iterator[Run]:
    run = drill.start(*overrides, **how)
    try:
        yield run
    finally:
        run.kill()


def small_shm(drill: Drill) -> str:
    """Run with a /dev/shm of 1 MB, too small for the batch, as Docker's default is for large batches."""
    inside = ("unshare", "-m", "bash", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "x")
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        return "skipped: unshare -m needs root"
    with running(drill, "optimization.max_update=12", "dataset.num_workers=2", before=inside) as run:
        run.plain_end(120, "done training", status=0)
    return "trained"


def lost_storage(drill: Drill) -> str:
    """Send SIGTERM while no batch arrives."""
    with running(drill, *ENDLESS, "dataset.validate_interval_updates=0") as run:
        run.until("train_inner")
        run.lose_the_storage()
        run.process.send_signal(signal.SIGTERM)
        run.plain_end(40, "stopped by SIGTERM at update [0-9]+; saved")
    return "saved"


def second_ctrl_c(drill: Drill) -> str:
    """Send a second SIGINT while the first one waits for a batch that does not arrive."""
    with running(drill, *ENDLESS, "dataset.validate_interval_updates=0") as run:
        run.until("train_inner")
        run.lose_the_storage()
        run.process.send_signal(signal.SIGINT)
        time.sleep(2.0)
        run.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        run.plain_end(6, "ended at once by a second Ctrl-C", status=130)
    return f"ended {time.monotonic() - began:.1f} s later"


def ctrl_c(drill: Drill) -> str:
    """Send SIGINT at any moment: imports, start, training, validation, and while workers start."""
    processes = drill.rng.choice([1, 1, 2])
    with running(drill, *ENDLESS, f"distributed_training.distributed_world_size={processes}") as run:
        number = drill.rng.choice([signal.SIGINT, signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
        early = drill.rng.random() < 0.3
        if not early:
            run.until("train_inner")
        time.sleep(drill.rng.uniform(0, 5))
        run.process.send_signal(number)
        output = run.plain_end(60)
        if not early and "; saved" not in output:
            raise Fault(f"{number.name}: not saved:\n{output[-1500:]}")
    return f"{number.name}, {processes} process(es): {'at the start' if early else 'saved'}"


def stopped_rank(drill: Drill) -> str:
    """Freeze one of two processes, without another signal."""
    limit = ("distributed_training.distributed_world_size=2", "distributed_training.distributed_timeout=30")
    with running(drill, *ENDLESS, *limit) as run:
        run.until("train_inner")
        os.kill(run.ranks()[1], signal.SIGSTOP)
        output = run.end(150)
        if not re.search(r"rank 1 \(local rank 1, process \d+ on \S+\) has not answered", output):
            raise Fault(f"rank 1 is not named:\n{output[-3000:]}")
    return "ended, and rank 1 is named"


NAMED = 60.0  # seconds from the fault until the log must name the process
TWO = "distributed_training.distributed_world_size=2"
PHASES = "data|forward|backward|exchange|optimizer|validation"


def named(run: Run, *needles: str, status: int = HUNG) -> str:
    """Wait until one line of the log matches, then until the run ends with this status."""
    began = time.monotonic()
    run.until("no progress for|has not answered", NAMED)
    seconds = time.monotonic() - began
    time.sleep(0.5)
    line = next(line for line in run.output.splitlines() if re.search("no progress for|has not answered", line))
    for needle in needles:
        if not re.search(needle, line):
            raise Fault(f"the first line about it lacks {needle!r}:\n{line}\n{run.output[-3000:]}")
    run.end(150, status)
    said = run.output.count("The run ends with status 69")
    if said > 1:  # none if another process loses the connection first, saves, and ends
        raise Fault(f"the end was reported {said} times:\n{run.output[-3000:]}")
    return f"named after {seconds:.0f} s: {line[line.index(needles[0][:4]) :][:150]}"


def silent_rank(drill: Drill, rank: int, *overrides: str, **how: tuple[str, ...]) -> str:
    """Freeze a rank with SIGSTOP at any moment: its step is read from outside."""
    with running(drill, *ENDLESS, *overrides, **how) as run:
        run.until("train_inner")
        time.sleep(drill.rng.uniform(5, 8))
        ranks = run.ranks()
        if len(ranks) < 2:
            raise Fault(f"{len(ranks)} processes train:\n{run.output[-3000:]}")
        pid = ranks[rank]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)
        shown = look_at(pid)
        assert shown is not None and shown.step is not None
        who = rf"rank {rank} \(local rank {rank}, process {pid} on \S+\) has not answered"
        status = 1 if how else HUNG  # a launcher has a status of its own
        return named(run, who, r"state is T \(stopped\)", rf"; {re.escape(shown.step.describe())}", status=status)


def stopped_rank_0(drill: Drill) -> str:
    return silent_rank(drill, 0, TWO)


def stopped_rank_1(drill: Drill) -> str:
    return silent_rank(drill, 1, TWO)


def stopped_rank_0_of_torchrun(drill: Drill) -> str:
    return silent_rank(drill, 0, launcher=TORCHRUN)


def _stop_a_worker(run: Run, rank: int) -> int:
    """Stop a data-loading worker of a rank; returns its process number."""
    while True:  # none run between two epochs, and those of an epoch that has ended are killed
        for worker in run.workers(run.ranks()[rank])[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGSTOP)
                time.sleep(1.0)
                os.kill(worker, 0)
                if worker in run.workers(run.ranks()[rank]):
                    return worker
        time.sleep(0.05)


def stopped_worker(drill: Drill) -> str:
    """Freeze the data-loading worker of one of two processes: that rank is named, and its worker."""
    with running(drill, *ENDLESS, TWO, "dataset.validate_interval_updates=0") as run:
        run.until("train_inner")
        time.sleep(drill.rng.uniform(5, 8))
        rank = drill.rng.randrange(2)
        worker = _stop_a_worker(run, rank)
        return named(
            run,
            rf"rank {rank} \(",
            "(data|validation) (of|after) update",  # the worker can be validation's
            rf"worker {worker}, state T \(stopped\), which .*(train|valid).tsv",
        )


def dead_mount(drill: Drill) -> str:
    """Let every read of audio block in the kernel: the file and the manifest are named, and the run is saved."""
    with running(drill, *ENDLESS, "dataset.validate_interval_updates=0") as run:
        run.until("train_inner")
        time.sleep(drill.rng.uniform(5, 8))
        os.mkfifo(run.folder / "mount")
        text = named(
            run, "process", "data of update", r"worker \d+, state S .*, which reads \S+\.flac of \S+/(train|valid)\.tsv"
        )
        if "is saved" not in run.output:
            raise Fault(f"not saved:\n{run.output[-1500:]}")
    return text


def healthy(drill: Drill, minutes: float) -> str:
    """Train on two processes, with validations that take about a minute."""
    slow = "import fairseq.training.validation as v\nimport time\nold = v.on_device\n"
    slow += "def on_device(sample, device):\n    time.sleep(0 if v.torch.is_grad_enabled() else 20)\n"
    slow += "    return old(sample, device)\nv.on_device = on_device\n"
    overrides = ("optimization.max_update=1000000", "checkpoint.save_interval_updates=20", TWO)
    often = ("dataset.validate_interval_updates=20", "dataset.max_tokens_valid=24000")
    run = drill.start(*overrides, *often)
    (run.folder / "plug_in" / "__init__.py").write_text(slow)
    try:
        time.sleep(60 * minutes)
        run.process.send_signal(signal.SIGTERM)
        output = run.plain_end(120, "; saved", status=75)
        alarms = len(re.findall("no progress for|has not answered|is slow", output))
        if alarms:
            raise Fault(f"{alarms} alarms:\n{output[-3000:]}")
        return f"0 alarms in {minutes:g} minutes with {output.count('validation on')} validations"
    finally:
        run.kill()


def stopped_rank_and_sigterm(drill: Drill) -> str:
    with running(drill, *ENDLESS, "distributed_training.distributed_world_size=2") as run:
        run.until("train_inner")
        os.kill(run.ranks()[drill.rng.randrange(2)], signal.SIGSTOP)
        time.sleep(drill.rng.uniform(0, 3))
        run.process.send_signal(signal.SIGTERM)
        run.end(120)
    return "ended"


def torchrun_dies(drill: Drill) -> str:
    """Send SIGKILL or SIGUSR1 to torchrun: its ranks save and exit."""
    with running(drill, *ENDLESS, launcher=TORCHRUN) as run:
        run.until("train_inner")
        number = drill.rng.choice([signal.SIGKILL, signal.SIGUSR1])
        run.process.send_signal(number)
        run.end(60)
        if "; saved" not in run.output:
            raise Fault(f"{number.name}: not saved:\n{run.output[-1500:]}")
    return f"{number.name}: saved"


def parent_dies(drill: Drill) -> str:
    """Send SIGKILL to the parent of spawned processes."""
    with running(drill, *ENDLESS, "distributed_training.distributed_world_size=2") as run:
        run.until("train_inner")
        run.process.kill()
        run.end(60)
        if "; saved" not in run.output:
            raise Fault(f"not saved:\n{run.output[-1500:]}")
    return "saved"


SCENARIOS: dict[str, Callable[[Drill], str]] = {
    scenario.__name__: scenario
    for scenario in (
        small_shm,
        lost_storage,
        second_ctrl_c,
        ctrl_c,
        stopped_rank,
        stopped_rank_0,
        stopped_rank_1,
        stopped_rank_0_of_torchrun,
        stopped_worker,
        dead_mount,
        stopped_rank_and_sigterm,
        torchrun_dies,
        parent_dies,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--tries", type=int, default=1, help="of each scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--healthy", type=float, metavar="MINUTES", help="train so long without a fault")
    arguments = parser.parse_args()
    all_right = True
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        make_corpus(Path(folder))
        if arguments.healthy:
            print(healthy(Drill(Path(folder), random.Random(arguments.seed)), arguments.healthy))
            return
        for name in arguments.scenarios or SCENARIOS:
            tally = Tally(name)
            for number in range(arguments.seed, arguments.seed + arguments.tries):
                drill = Drill(Path(folder), random.Random(number))
                try:
                    outcome = Outcome("right", SCENARIOS[name](drill))
                    print(f"{name}, seed {number}: {outcome.text}", flush=True)
                    tally.add(f"seed {number}", outcome)
                except Fault as fault:
                    tally.add(f"seed {number}", Outcome("fault", str(fault)))
            all_right &= tally.report()
    sys.exit(not all_right)


if __name__ == "__main__":
    main()
