"""`hydra/launcher=dependency_submitit_slurm`: what SLURM is asked for, and what a job does when it starts. SLURM is
tests/fakes/slurm.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairseq_cli import hydra_train
from tests.integration.conftest import REPOSITORY, TINY, Workplace

FAKES = REPOSITORY / "tests/fakes/slurm"
LAUNCHER = ["-m", "hydra/launcher=dependency_submitit_slurm", "hydra.sweep.dir=sweep"]
Submit = Callable[..., str]


@pytest.fixture()
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the fake commands, now on PATH, write to."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{FAKES}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture()
def submit(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Submit]:
    """Type the command with the launcher; gives what it printed. The data is not there yet."""
    pytest.importorskip("submitit")
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*overrides: str) -> str:
        words = [
            "fairseq-hydra-train",
            "task.data=data",
            "--config-dir",
            str(tmp_path),
            "--config-name",
            "tiny",
            *LAUNCHER,
            *overrides,
        ]
        monkeypatch.setattr(sys, "argv", words)
        hydra_train.cli_main()
        return capfd.readouterr().out

    yield run
    root.handlers[:], root.level = handlers, level


def options(script: Path) -> dict[str, str]:
    """The #SBATCH lines."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script.read_text(), re.MULTILINE))


def no_job(slurm: Path) -> bool:
    return not list(slurm.glob("*.sh"))


# -- submitting --------------------------------------------------------------------------------------------------------


def test_what_slurm_is_asked_for(submit: Submit, slurm: Path, tmp_path: Path) -> None:
    told = submit(
        "hydra.launcher.partition=devlab",
        "hydra.launcher.nodes=2",
        "hydra.launcher.gpus_per_node=8",
        "hydra.launcher.dependency=afterok:77",
        "+hydra.launcher.additional_parameters.mail-type=END",
    )
    asked = options(slurm / "101.sh")
    wanted = {
        "partition": "devlab",
        "nodes": "2",
        "gpus-per-node": "8",
        "ntasks-per-node": "8",
        "dependency": "afterok:77",
        "mail-type": "END",
        "time": "60",
        "signal": "USR2@120",
    }
    assert wanted.items() <= asked.items() and "array" not in asked
    log = tmp_path / "sweep/.submitit/101/101_0_log.out"
    assert f"#0 is job 101, log {log} :" in told and asked["output"] == str(log).replace("101", "%j")
    assert not (tmp_path / "sweep/0").exists(), "nothing runs here"


def test_a_sweep_is_an_array_and_the_next_script_learns_of_each_job(
    submit: Submit, slurm: Path, tmp_path: Path
) -> None:
    (tmp_path / "next.sh").write_text('#!/bin/sh\necho "$@" >>next.txt\n')
    (tmp_path / "next.sh").chmod(0o755)
    told = submit("optimization.lr=[0.1],[0.2]", "+next_script=./next.sh")
    assert options(slurm / "101.sh")["array"].startswith("0-1") and [path.name for path in slurm.glob("*.sh")] == [
        "101.sh"
    ]
    assert "#0 is job 101_0" in told and "#1 is job 101_1" in told
    sweep = tmp_path / "sweep"
    assert (tmp_path / "next.txt").read_text().splitlines() == [f"101_{i} {i} {sweep} {sweep}/{i}" for i in range(2)]


def test_a_single_job_has_number_0(submit: Submit, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "next.sh").write_text('#!/bin/sh\necho "$@" >>next.txt\nexit 3\n')
    (tmp_path / "next.sh").chmod(0o755)
    with pytest.raises(
        SystemExit, match="the jobs were submitted, but next_script=./next.sh failed: exit code 3 for job 101"
    ):
        submit("next_script=./next.sh")
    assert (tmp_path / "next.txt").read_text() == f"101 0 {tmp_path / 'sweep'} {tmp_path / 'sweep/0'}\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimization.max_updates=3", "job #0:\n  - .*max_updates"),
        ("next_script=./nowhere.sh", "next_script=./nowhere.sh is not an executable program"),
        ("hydra.launcher.tasks_per_node=1", "tasks_per_node=1 is less than gpus_per_node=8"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(
    submit: Submit, slurm: Path, override: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=f"(?s)^hydra/launcher=dependency_submitit_slurm: .*{message}"):
        submit("hydra.launcher.nodes=2", "hydra.launcher.gpus_per_node=8", override)
    assert no_job(slurm)


def test_what_sbatch_says_is_passed_on(submit: Submit, slurm: Path) -> None:
    (slurm / "refuses").write_text("sbatch: error: invalid partition specified: devlab\n")
    with pytest.raises(SystemExit, match="invalid partition specified: devlab"):
        submit()


def test_no_slurm_here(submit: Submit, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="srun"):
        submit()
    assert no_job(slurm)


def test_without_multirun_hydra_would_train_here(submit: Submit, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "LAUNCHER", LAUNCHER[1:])
    with pytest.raises(SystemExit, match=r"hydra/launcher=dependency_submitit_slurm requires -m"):
        submit()
    assert no_job(slurm)


def test_where_submitit_is_not_installed(workplace: Workplace) -> None:
    hide = (
        "import os, sys, warnings; from fairseq_cli import hydra_train; warnings.simplefilter('error'); "
        "sys.modules['submitit'] = None; os.dup2(os.open('stderr', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2); "
        "sys.argv = ['x', *{words}]; hydra_train.cli_main()"
    )
    lines = {}
    for words in ([*LAUNCHER, "hydra.launcher.partition=devlab"], ["--cfg", "job"]):
        done = workplace.warm.python(hide.format(words=workplace.arguments(*words)), workplace.folder)
        lines[words[0]] = done.code, (workplace.folder / "stderr").read_text()
    assert lines["--cfg"] == (0, ""), "without the launcher nothing is amiss"
    assert lines["-m"] == (
        1,
        "hydra/launcher=dependency_submitit_slurm: submitit is not installed: pip install 'submitit>=1.5'\n",
    )


# -- in the job --------------------------------------------------------------------------------------------------------


class Job:
    """A job that SLURM has started on this machine."""

    def __init__(self, slurm: Path, workplace: Workplace, tasks: int = 1, number: int = 101) -> None:
        place: dict[str, object] = {
            "SLURM_JOB_ID": number,
            "SLURM_NTASKS": tasks,
            "SLURM_NNODES": 1,
            "SLURM_JOB_NUM_NODES": 1,
        }
        place["SLURM_JOB_NODELIST"] = "localhost"
        env = {**workplace.environment(), **{name: str(value) for name, value in place.items()}}
        self.slurm, self.log = slurm, workplace.folder / f"sweep/.submitit/{number}/{number}_0_log.out"
        self.process = subprocess.Popen(["bash", str(slurm / f"{number}.sh")], cwd=workplace.folder, env=env)

    def end(self) -> tuple[int, str]:
        """Its exit status, which SLURM's afterok goes by, and the first task's log."""
        code = self.process.wait(timeout=300)
        return code, self.log.read_text()

    def signal(self, after: Path, number: signal.Signals) -> None:
        """Send a signal to all processes of all tasks once there is this file, as SLURM does when the time is
        nearly over.
        """
        deadline = time.monotonic() + 120
        while not after.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        pids = [int(pid) for pid in (self.slurm / "pids").read_text().split()]
        for pid in pids:
            pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for pid in reversed(pids):
            os.kill(pid, number)


@pytest.fixture()
def submitted(slurm: Path, workplace: Workplace) -> Submit:
    """As `submit`, by a process of its own and with the data there."""
    pytest.importorskip("submitit")
    return lambda *overrides: workplace.run(*LAUNCHER, *overrides)


PLUG_IN = """
from dataclasses import dataclass
from fairseq.optim.lr_scheduler import register_lr_scheduler
from fairseq.optim.lr_scheduler.fixed_schedule import FixedLRScheduleConfig, FixedLRSchedule

@dataclass
class MineConfig(FixedLRScheduleConfig):
    pass

@register_lr_scheduler("mine_on_slurm", dataclass=MineConfig)
class Mine(FixedLRSchedule):
    pass
"""


@pytest.mark.slow
def test_the_tasks_of_a_job_train_together(submitted: Submit, slurm: Path, workplace: Workplace) -> None:
    """With a plug-in from elsewhere, and a YAML in the form of old hydra."""
    (workplace.folder / "plug").mkdir()
    (workplace.folder / "plug/mine_on_slurm.py").write_text(PLUG_IN)
    submitted(
        "hydra.launcher.tasks_per_node=2",
        "common.user_dir=plug/mine_on_slurm",
        "lr_scheduler=mine_on_slurm",
        "optimization.max_update=4",
        "checkpoint.save_dir=${env:WHERE,run}",
    )
    code, log = Job(slurm, workplace, tasks=2).end()
    assert code == 0, log
    assert "processes: 2, each on" in log and "done training" in log and "deprecated" not in log.lower()
    assert (workplace.folder / "sweep/0/run/checkpoint_last.pt").is_file()


@pytest.mark.slow
def test_a_run_cut_short_is_saved_continued_and_does_not_count_as_done(
    submitted: Submit, slurm: Path, workplace: Workplace
) -> None:
    """One task that has started two processes, as upstream's YAMLs for SLURM have it."""
    submitted(
        "optimization.max_update=100000",
        "dataset.disable_validation=true",
        "checkpoint.save_interval_updates=0",
        "checkpoint.save_interval=1000000",
        "distributed_training.distributed_world_size=2",
        "hydra.launcher.timeout_min=5",
        "hydra.launcher.max_num_timeout=1",
    )
    folder = workplace.folder / "sweep/0/run"
    job = Job(slurm, workplace)
    job.signal(folder / "metrics.jsonl", signal.SIGUSR2)
    code, log = job.end()
    assert code != 0 and "stopped by SIGUSR1" in log and (folder / "checkpoint_last.pt").is_file(), log
    assert (slurm / "scontrol").read_text() == "requeue 101\n"

    (folder / "metrics.jsonl").unlink()
    job = Job(slurm, workplace)
    job.signal(folder / "metrics.jsonl", signal.SIGUSR2)
    code, log = job.end()
    assert code != 0 and log.count("stopped by SIGUSR1") == 2 and log.count("loaded checkpoint") == 1, log
    assert "timed-out too many times" in log
    assert (slurm / "scontrol").read_text() == "requeue 101\n", "queued again once, as often as max_num_timeout says"


def test_a_job_that_fails_is_a_failed_job(submitted: Submit, slurm: Path, workplace: Workplace) -> None:
    """Else afterok would start what needs its checkpoint."""
    text = "import os\nif 'SLURM_JOB_ID' in os.environ:\n    raise RuntimeError('broken on the node')\n"
    (workplace.folder / "broken_on_slurm.py").write_text(text)
    submitted("common.user_dir=broken_on_slurm")
    code, _ = Job(slurm, workplace).end()
    assert code != 0
    assert "broken on the node" in (workplace.folder / "sweep/.submitit/101/101_0_log.out").read_text()
