"""Attempts of a run: spawned here, or torchrun's, which share a store."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from fairseq.dataclass.base import ConfigError
from fairseq.distributed import failures, restarts
from fairseq.distributed.exit_status import STOPPED
from fairseq.distributed.failures import Failure, RunFailed
from fairseq.distributed.place import Place
from fairseq.distributed.restarts import Attempt, Meeting
from fairseq.distributed.spawning import _status_of_failed

SOON = timedelta(seconds=20)
DIED = Failure(1, 1, "node", 7, "was killed by SIGKILL")


def failing(times: int, seen: list[Attempt]) -> Callable[[Attempt], int]:
    def attempt(this: Attempt) -> int:
        seen.append(this)
        if len(seen) <= times:
            raise RunFailed(DIED)
        return STOPPED

    return attempt


def test_attempts_go_on_until_one_ends_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Attempt] = []
    with caplog.at_level(logging.WARNING):
        assert restarts.until_done(failing(2, seen), 3) == STOPPED
    assert [(each.number, each.limit, each.is_last) for each in seen] == [(0, 3, False), (1, 3, False), (2, 3, False)]
    assert seen[0].describe() == ""
    assert seen[1].describe() == "restart 1 of 3, after rank 1 (local rank 1 on node, process 7) was killed by SIGKILL"
    assert "restart 2 of 3" in caplog.text and caplog.text.count("was killed by SIGKILL") == 2


def test_the_last_failure_and_the_users_mistakes_end_the_run() -> None:
    seen: list[Attempt] = []
    with pytest.raises(RunFailed):
        restarts.until_done(failing(9, seen), 2)
    assert len(seen) == 3

    def mistaken(attempt: Attempt) -> int:
        seen.append(attempt)
        raise ConfigError(["task.data is wrong."])

    seen.clear()
    with pytest.raises(ConfigError):
        restarts.until_done(mistaken, 2)
    assert len(seen) == 1


# -- how spawned processes ended ---------------------------------------------------------------------------------------


class Process:
    def __init__(self, exitcode: int) -> None:
        self.pid, self.exitcode = 100, exitcode


OWN = DIED._replace(sentence="failed: RuntimeError: bug", at=2.0)
LOST = Failure(0, 0, "node", 6, "ended because another process had ended", follows=True, at=1.0)


@pytest.mark.parametrize(
    ("codes", "first", "said", "cause"),
    [
        ((0, -9), 1, [STOPPED], "rank 1 .*was killed by SIGKILL"),  # rank 0 was asked to end, and saved
        ((1, -9), 0, [LOST], "rank 1 .*was killed by SIGKILL"),  # noticed in the other order
        ((1, 1), 0, [LOST, OWN], "rank 1 .*failed: RuntimeError: bug"),
        ((-11, 1), 0, [OWN], "rank 0 .*was killed by SIGSEGV"),
        ((1, 0), 0, [LOST], "rank 0 .*ended because"),
        ((-15, 0), 0, [], "rank 0 .*was killed by SIGTERM"),
    ],
)
def test_the_cause_of_spawned_processes_end(codes: tuple[int, ...], first: int, said: list[object], cause: str) -> None:
    with pytest.raises(RunFailed, match=cause):
        _status_of_failed([Process(code) for code in codes], first, said, None)


def test_signals_and_mistakes_are_not_failures() -> None:
    processes = [Process(0), Process(1)]
    late = LOST._replace(rank=1)
    assert _status_of_failed(processes, 1, [STOPPED, late], None) == STOPPED  # a signal to rank 0 only
    assert _status_of_failed(processes, 1, [STOPPED, OWN], signal.SIGTERM) == STOPPED
    assert _status_of_failed(processes, 1, [OWN], signal.SIGTERM) is None
    with pytest.raises(ConfigError):
        _status_of_failed(processes, 1, [STOPPED, ConfigError(["wrong"])], None)


# -- torchrun's store --------------------------------------------------------------------------------------------------


def meet(store: dist.Store, places: list[Place]) -> list[tuple[str, Meeting]]:
    """Let processes of these places join, each in a thread; returns their prefixes by rank."""
    meetings = [Meeting(store, place) for place in places]
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda each=each: found.update({each._place.rank: each.join(SOON)}))
        for each in meetings
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [(found[each._place.rank], each) for each in meetings]


def places(count: int) -> list[Place]:
    return [Place(rank, rank, count, count) for rank in range(count)]


def test_each_attempt_has_its_own_prefix_and_knows_why_the_last_one_ended() -> None:
    store = dist.HashStore()
    first = meet(store, places(3))
    assert {prefix for prefix, _ in first} == {"run1"} and first[0][1].end_of_last_attempt() == ""
    assert len({meeting.session() for _, meeting in first}) == 1
    for rank in (0, 2):
        first[rank][1].report(None)
    second = meet(store, places(3))
    assert {prefix for prefix, _ in second} == {"run2"}
    assert second[0][1].end_of_last_attempt().startswith("rank 1 (local rank 1 on ")
    assert second[0][1].end_of_last_attempt().endswith(" was killed")
    second[1][1].report(OWN)
    lost = second[0][1].explain(LOST)
    assert lost.describe().endswith(f"ended because {OWN.describe()}") and lost.follows
    third = meet(store, places(3))
    assert third[2][1].end_of_last_attempt() == OWN.describe()
    assert third[0][1].session() == first[0][1].session()


def test_a_process_that_an_earlier_rank_0_called_joins_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With static rendezvous, one node can start its next attempt before another one does."""
    store = dist.HashStore()
    monkeypatch.setattr(restarts, "_POLL", 0.01)
    early, found = Meeting(store, places(3)[1]), []
    waiting = threading.Thread(target=lambda: found.append(early.join(SOON)))
    waiting.start()
    dying = Meeting(store, places(3)[0])
    with pytest.raises(RuntimeError, match=r"ranks \[2\] did not start"):  # it answers rank 1, and dies
        dying.join(timedelta(seconds=0.3))
    assert [prefix for prefix, _ in meet(store, [places(3)[0], places(3)[2]])] == ["run2", "run2"]
    waiting.join()
    assert found == ["run2"]


def test_torchrun_ends_with_a_run_that_it_would_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    restarts.end_torchrun("without torchrun")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    restarts.end_torchrun("no restart is left")
    assert sent == []
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    (tmp_path / "0").mkdir()
    monkeypatch.setenv(failures.ERROR_FILE, str(tmp_path / "0" / "error.json"))
    for _ in range(2):  # two processes of the node
        restarts.end_torchrun("the run has ended")
    assert sent == [(os.getppid(), signal.SIGTERM)]
