"""Which process's failure is the cause, and how it is printed."""

from __future__ import annotations

import json
import pickle
import signal
from pathlib import Path

import pytest

from fairseq.dataclass.base import ConfigError, RunError
from fairseq.distributed import failures
from fairseq.distributed.failures import Failure, RunFailed
from fairseq.distributed.place import Place

PLACE = Place(3, 1, 4, 2)


def of(error: Exception) -> Failure:
    try:
        raise error
    except Exception as raised:
        return failures.of_error(raised, PLACE)._replace(host="node2", pid=7)


def test_an_error_of_its_own_has_a_traceback_and_the_users_mistake_has_none() -> None:
    bug = of(RuntimeError("bad index"))
    assert not bug.follows and not bug.mistake and "Traceback" in bug.traceback
    assert bug.text().splitlines()[-1] == ("rank 3 (local rank 1 on node2, process 7) failed: RuntimeError: bad index")
    for mistake in (ConfigError(["task.data is wrong."]), RunError("a.wav cannot be read.")):
        found = of(mistake)
        assert found.mistake and not found.traceback and str(mistake) in found.text()


@pytest.mark.parametrize(
    "text",
    [
        "[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:16781",
        "Read error [10.0.0.1]:4488: Connection reset by peer",
        "NCCL error: remote process exited or there was a network error",
        "failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    ],
)
def test_a_lost_connection_follows_from_another_failure(text: str) -> None:
    found = of(RuntimeError(f"first line\n{text}"))
    assert found.follows and not found.traceback and len(found.text().splitlines()) == 1
    assert not of(ValueError(text)).follows
    assert not of(RuntimeError("Timed out waiting 1800000ms for recv operation to complete")).follows


def test_the_cause_is_the_first_failure_that_does_not_follow() -> None:
    lost = of(RuntimeError("Broken pipe"))._replace(at=1.0)
    first, second = (of(RuntimeError(name))._replace(at=at) for name, at in (("first", 2.0), ("second", 3.0)))
    assert failures.cause([second, lost, first]) == first
    assert failures.cause([lost]) == lost


def test_a_process_that_ends_without_a_report() -> None:
    assert "was killed by SIGKILL (out of memory, unless" in failures.of_exit(1, 9, -signal.SIGKILL).describe()
    assert failures.of_exit(1, 9, -signal.SIGSEGV).describe().endswith("process 9) was killed by SIGSEGV")
    assert failures.of_exit(1, 9, 3).describe().endswith("ended with status 3")
    assert failures.of_exit(1, 9, -40).describe().endswith("was killed by signal 40")


def test_a_failure_comes_back_from_another_process() -> None:
    error = RunFailed(of(RuntimeError("bad")))
    again = pickle.loads(pickle.dumps(error))
    assert again.failure == error.failure and str(again) == str(error)


def test_torchrun_prints_the_cause_where_it_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    for name, value in PLACE.variables().items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv(failures.ERROR_FILE, str(path))
    bug, lost = of(RuntimeError("bad index")), of(RuntimeError("Broken pipe"))
    words = failures.last_words(RunFailed(bug), "train", is_last=True)
    assert words == f"train: {bug.describe()}"  # without the traceback, which torchrun prints
    message = json.loads(path.read_text())["message"]["extraInfo"]
    assert "Traceback" in message["py_callstack"] and message["py_callstack"].endswith(words)
    # torchrun takes the smallest time for the cause
    failures.last_words(RunFailed(lost), "train", is_last=True)
    assert int(json.loads(path.read_text())["message"]["extraInfo"]["timestamp"]) > int(message["timestamp"]) + 30
    # before a restart torchrun prints nothing
    assert "Traceback" in failures.last_words(RunFailed(bug), "train", is_last=False)
    mistake = ConfigError(["task.data is wrong."])
    assert failures.last_words(mistake, "train", is_last=True) == ""
    assert "task.data is wrong" in json.loads(path.read_text())["message"]["extraInfo"]["py_callstack"]
    assert failures.last_words(mistake, "train", is_last=False).startswith("train: rank 3: the config has 1 problem")
    monkeypatch.delenv(failures.ERROR_FILE)  # another launcher
    assert "Traceback" in failures.last_words(RunFailed(bug), "train", is_last=True)
    monkeypatch.delenv("RANK")  # the parent of spawned processes
    assert failures.last_words(RunFailed(bug), "train", is_last=True).endswith(f"\ntrain: {bug.describe()}")
