"""Judges for cases about processes: signals, workers, launchers, and log destinations."""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

from tests.drills.cases import Case, Ended, Finding, judges

ENDLESS = (
    "optimization.max_update=100000",
    "checkpoint.save_interval_updates=50000",
    "checkpoint.save_interval=100000",
)
TWO = "distributed_training.distributed_world_size=2"
# what tensorboard does with a folder and a full disk, where it is not installed
STAND_IN = """import os, sys, types
class SummaryWriter:
    def __init__(self, folder, **options):
        os.makedirs(folder, exist_ok=True)
        self.file = open(os.path.join(folder, "events"), "ab", buffering=0)
    def add_scalar(self, *arguments):
        self.file.write(b"x" * 60)
    def add_text(self, *arguments): pass
    def flush(self): pass
    def close(self): self.file.close()
module = types.ModuleType("torch.utils.tensorboard")
module.SummaryWriter = SummaryWriter
sys.modules["torch.utils.tensorboard"] = module
"""


def training(case: Case, *overrides: str) -> list[str]:
    common = case.cases / "training/common"
    return case.line(
        "fairseq-hydra-train",
        "--config-dir",
        common,
        "--config-name",
        "mini",
        f"task.data={common / 'base'}",
        *overrides,
    )


def with_small_disk(line: list[str], folder: str, size: str) -> list[str]:
    """Return a command line that runs `line` with a separate disk of this size mounted at a new folder."""
    script = f'mkdir -p {folder} && mount -t tmpfs -o size={size} tmpfs {folder} && exec "$@"'
    return ["unshare", "-m", "bash", "-c", script, "x", *line]


def may_mount() -> bool:
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0
    )


SKIPPED = "skipped: unshare -m needs root"


def interrupted(case: Case, line: list[str], number: signal.Signals) -> Ended:
    """Run a command and send it a signal soon after its first metrics."""
    began, log = time.monotonic(), case.work / f"{time.monotonic()}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=case.work,
            env=case.environment(),
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell's background job ignores SIGINT
        )
    try:
        while (
            process.poll() is None
            and time.monotonic() - began < 120
            and "train_inner" not in log.read_text(errors="replace")
        ):
            time.sleep(0.1)
        process.send_signal(number)
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
    return Ended(process.wait(), log.read_text(errors="replace"), time.monotonic() - began)


def in_short(ended: Ended) -> str:
    trace = "a traceback; " if ended.has_traceback else ""
    return f"status {ended.code}; {trace}{ended.last_line[-150:]}"


@judges("training/ctrl-c")
def ctrl_c(case: Case) -> Iterator[Finding]:
    variants = [
        ("SIGINT", signal.SIGINT, ()),
        ("SIGHUP", signal.SIGHUP, ()),
        ("own: SIGINT, two processes", signal.SIGINT, (TWO,)),
    ]
    for label, number, more in variants:
        folder = label.replace(" ", "_").replace(":", "").replace(",", "")
        ended = interrupted(case, training(case, *ENDLESS, *more, f"checkpoint.save_dir={folder}"), number)
        saved = (case.work / folder / "checkpoint_last.pt").is_file()
        right = saved and not ended.has_traceback and "stopped by" in ended.output
        yield Finding(label, right, f"{'saved' if saved else 'not saved'}; {in_short(ended)}")


@judges("training/shm-hang")
def shm_hang(case: Case) -> Iterator[Finding]:
    if not may_mount():
        yield Finding("", True, SKIPPED)
        return
    large = (
        f"task.data={case.folder}",
        "dataset.max_tokens=2600000",
        "optimization.max_update=4",
        "dataset.disable_validation=true",
    )
    short = ("optimization.max_update=8",)
    variants = {"1 MB": ("1m", ("optimization.max_update=40",)), "64 MB": ("64m", large), "own: 4 kB": ("4k", short)}
    for label, (size, overrides) in variants.items():
        line = training(case, "dataset.num_workers=2", f"checkpoint.save_dir=ckpt{size}", *overrides)
        ended = case.run_line(with_small_disk(line, "/dev/shm", size), seconds=150)
        right = ended.code == 0 and "done training" in ended.output and not ended.has_traceback
        yield Finding(label, right, "hangs" if ended.code == -9 else in_short(ended))


@judges("training/log-file-full")
def log_file_full(case: Case) -> Iterator[Finding]:
    ended = case.run_line(training(case, "common.log_file=/dev/full", "optimization.max_update=4"))
    named = "common.log_file" in ended.output
    yield Finding(
        "/dev/full",
        named and not ended.has_traceback,
        f"{ended.output.count('Traceback')} tracebacks; {in_short(ended)}",
    )
    if not may_mount():
        yield Finding("own: full in the middle", True, SKIPPED)
        return
    line = training(
        case,
        "common.log_file=logs/a.log",
        "optimization.max_update=60",
        "common.log_interval=1",
        "checkpoint.save_dir=b",
    )
    ended = case.run_line(with_small_disk(line, "logs", "8k"))
    right = (
        ended.code == 0
        and not ended.has_traceback
        and ended.output.count("common.log_file") == 1
        and "done training" in ended.output
    )
    yield Finding("own: full in the middle", right, f"{ended.output.count('Traceback')} tracebacks; {in_short(ended)}")


@judges("training/tensorboard-disk")
def tensorboard_disk(case: Case) -> Iterator[Finding]:
    plug_in = case.work / "plug_in"
    plug_in.mkdir()
    (plug_in / "__init__.py").write_text("" if importlib.util.find_spec("tensorboard") else STAND_IN)
    (case.work / "afile").touch()
    plugged = f"common.user_dir={plug_in}"
    for label, path in (("a file", "afile"), ("own: below a file", "afile/runs/x")):
        ended = case.run_line(
            training(case, plugged, f"common.tensorboard_logdir={case.work / path}", "optimization.max_update=4")
        )
        right = ended.code != 0 and "common.tensorboard_logdir" in ended.output and not ended.has_traceback
        yield Finding(label, right, in_short(ended))
    if not may_mount():
        yield Finding("full while it runs", True, SKIPPED)
        return
    many = (
        "optimization.max_update=120",
        "common.log_interval=1",
        "dataset.validate_interval_updates=100",
        "checkpoint.save_dir=b",
    )
    line = training(case, plugged, f"common.tensorboard_logdir={case.work / 'tb/x'}", *many)
    ended = case.run_line(with_small_disk(line, "tb", "16k"), seconds=200)
    reports = len(re.findall(r"cannot write common\.tensorboard_logdir", ended.output))
    right = ended.code == 0 and not ended.has_traceback and reports == 1 and "done training" in ended.output
    yield Finding("full while it runs", right, f"{reports} reports; {in_short(ended)}")


@judges("training/port-in-use")
def port_in_use(case: Case) -> Iterator[Finding]:
    for label, host in (("", ""), ("own: on the loopback only", "127.0.0.1")):
        with socket.socket() as listener:
            listener.bind((host, 0))
            listener.listen()
            port = listener.getsockname()[1]
            ended = case.run_line(training(case, TWO, f"distributed_training.distributed_port={port}"), seconds=100)
        named = f"distributed_training.distributed_port={port}" in ended.output
        yield Finding(label, named and not ended.has_traceback and ended.code != 0, in_short(ended))


@judges("training/two-runs-one-folder#slurm")
def slurm(case: Case) -> Iterator[Finding]:
    base = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "77", "SLURM_NNODES": "1"}
    variants = {
        "task 1 of 4": {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"},
        "own: task 0 of 4": {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "4"},
    }
    for label, variables in variants.items():
        line = training(case, "optimization.max_update=2", "checkpoint.save_dir=s")
        ended = case.run_line(line, **base, **variables)
        right = ended.code != 0 and "distributed_training.distributed_port" in ended.output and not ended.has_traceback
        yield Finding(label, right, in_short(ended))
