"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fairseq import checkpoint_utils
from fairseq.checkpoint.lock import NAME, FolderLock, Holder
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed.restarts import SESSION

HOLDS = (
    "import sys\nfrom fairseq.checkpoint.lock import FolderLock\nlock = FolderLock(sys.argv[1])\nlock.acquire()\n"
    "print('held', flush=True)\nsys.stdin.read()\n"
)


def other_run(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def write(folder: Path, **changes: object) -> None:
    (folder / NAME).write_text(json.dumps({**Holder.this_process()._asdict(), **changes}))


@pytest.mark.process
def test_a_living_run_is_named_and_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    process = other_run(tmp_path)
    with pytest.raises(
        ValueError, match=f"is in use by process {process.pid} on {socket.gethostname()}.*another folder"
    ):
        FolderLock(tmp_path).acquire()
    process.kill()
    process.communicate()
    assert (tmp_path / NAME).exists()
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    lock.release()
    assert not (tmp_path / NAME).exists()
    lock.release()


def test_a_file_without_locks_still_names_a_living_process(tmp_path: Path) -> None:
    """As on file systems without POSIX locks: the text alone decides. Process 1 runs always."""
    write(tmp_path, pid=1, started="")
    with pytest.raises(ValueError, match="in use by process 1 on"):
        FolderLock(tmp_path).acquire()


def test_a_number_that_another_process_got_since_is_no_holder(tmp_path: Path) -> None:
    write(tmp_path, pid=1, started="another boot 17")
    FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", SESSION])
def test_another_host_says_how_to_remove_the_lock_and_the_same_job_takes_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A requeued job of SLURM, or a torchrun whose next attempt has rank 0 on another host."""
    write(tmp_path, host="elsewhere", pid=7, job="77")
    with pytest.raises(
        ValueError, match=f"process 7 on elsewhere, which cannot be checked from this host.*remove {tmp_path / NAME}"
    ):
        FolderLock(tmp_path).acquire()
    monkeypatch.setenv(variable, "77")
    FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}'])
def test_a_file_that_says_nothing_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_run_holds_its_folder_and_lets_it_go(tmp_path: Path) -> None:
    cfg = OmegaConf.structured(CheckpointConfig(save_dir=str(tmp_path / "run")))
    with pytest.raises(ZeroDivisionError), checkpoint_utils.save_dir_held(cfg, writes=True):
        assert (tmp_path / "run" / NAME).exists()
        raise ZeroDivisionError
    assert not (tmp_path / "run" / NAME).exists()
    write(tmp_path / "run", pid=1, started="")
    with checkpoint_utils.save_dir_held(cfg, writes=False):  # the other processes of a run
        pass
    with pytest.raises(ConfigError, match="in use by process 1"), checkpoint_utils.save_dir_held(cfg, writes=True):
        pass
    (tmp_path / "file").write_text("")
    cfg.save_dir = str(tmp_path / "file" / "run")  # cannot be written: others say so, or nothing is to be saved
    with checkpoint_utils.save_dir_held(cfg, writes=True):
        pass
