"""The queue in front of a tracker: order, a full queue, failures, hangs, and what metrics.jsonl gives back."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pytest

from fairseq.logging.metrics_file import Json, MetricsFile
from fairseq.logging.trackers.queue import Queued
from fairseq.logging.trackers.rows import Place, Row


class Store:
    """A tracker in memory.

    Args:
        has: rows of an earlier process.
        gate: what writing waits for.
    """

    def __init__(self, has: Collection[Place] = (), gate: threading.Event | None = None) -> None:
        self.has, self.gate = has, gate
        self.failures: list[Exception] = []
        self.updates: list[int] = []
        self.findings: list[str] = []
        self.begun, self.closed, self.abandoned = 0, 0, 0
        self.is_entered = threading.Event()

    def begin(self, rows: Sequence[Row]) -> Collection[Place]:
        self.begun += 1
        return self.has

    def write(self, rows: Sequence[Row]) -> None:
        self.is_entered.set()
        if self.gate is not None:
            self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        self.updates += [row.update for row in rows]

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        self.findings.append(f"{finding['name']} at {update}")

    def close(self) -> None:
        self.closed += 1

    def abandon(self) -> None:
        self.abandoned += 1


Wrap = Callable[..., Queued]


@pytest.fixture()
def file(tmp_path: Path) -> MetricsFile:
    return MetricsFile(tmp_path / "metrics.jsonl")


@pytest.fixture()
def wrap(file: MetricsFile) -> Wrap:
    return lambda store, **options: Queued("Store", store, file.path, **{"patience": 10.0, **options})


def write(queued: Queued, file: MetricsFile, *updates: int) -> None:
    """Write rows as a run does: metrics.jsonl comes first."""
    for update in updates:
        file.write("train_inner", update, 1, {"loss": 0.5})
        queued.write("train_inner", update, 1, {"loss": 0.5})


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_rows_and_findings_arrive_in_order(file: MetricsFile, wrap: Wrap, caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    queued = wrap(store)
    assert not threading.enumerate()[1:] or all("Store" not in thread.name for thread in threading.enumerate())
    write(queued, file, 1, 2, 3)
    queued.finding(3, {"name": "plateau"})
    queued.close()
    assert (store.updates, store.findings, store.begun, store.closed) == ([1, 2, 3], ["plateau at 3"], 1, 1)
    assert messages(caplog) == []


def test_a_resumed_run_sends_what_the_store_lacks_and_nothing_twice(file: MetricsFile, wrap: Wrap) -> None:
    for update in (1, 2, 3):  # the kill came before the store had update 2
        file.write("train_inner", update, 1, {"loss": 0.5})
    store = Store(has=[("train_inner", 1), ("train_inner", 3), ("train_inner", 4)])
    queued = wrap(store)
    write(queued, file, 4, 5)  # 4 is repeated
    queued.close()
    assert store.updates == [2, 5]


def test_a_complete_run_that_is_started_again_sends_the_rest(file: MetricsFile, wrap: Wrap) -> None:
    store = Store()
    wrap(store).close()
    assert store.begun == 0, "without metrics.jsonl there is nothing to send"
    file.write("train_inner", 1, 1, {"loss": 0.5})
    wrap(store).close()
    assert (store.updates, store.begun, store.closed) == ([1], 1, 1)


def test_a_hanging_tracker_costs_the_run_nothing(
    file: MetricsFile, wrap: Wrap, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    store = Store(gate=gate)
    queued = wrap(store, room=3, patience=0.1)
    begin = time.thread_time()
    write(queued, file, 1)
    assert store.is_entered.wait(10)
    write(queued, file, *range(2, 50))
    queued.close()
    assert time.thread_time() - begin < 1
    assert (queued.dropped, store.updates, store.abandoned) == (45, [], 1)
    assert [text.partition(",")[0] for text in messages(caplog)] == [
        "Store: does not keep up",
        "Store: not finished after 0.1 seconds",
    ]
    gate.set()  # it answers after all: the rest comes from metrics.jsonl
    assert queued._thread is not None
    queued._thread.join(10)
    assert store.updates == list(range(1, 50))


def test_a_failure_is_said_once_and_made_good(file: MetricsFile, wrap: Wrap, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()
    store = Store(gate=gate)
    store.failures = [RuntimeError("no such\nserver"), ValueError("still none")]
    queued = wrap(store, retry=0.0)
    for update in (1, 2, 3):
        write(queued, file, update)
        assert store.is_entered.wait(10)
        gate.set()
        while len(store.failures) > max(0, 2 - update):
            time.sleep(0.001)
        gate.clear()
        store.is_entered.clear()
    gate.set()
    queued.close()
    assert (store.updates, store.begun, store.closed, store.abandoned) == ([1, 2, 3], 3, 1, 0)
    assert len(messages(caplog)) == 1 and "(ValueError: still none)" in messages(caplog)[0]


def test_no_attempt_before_the_time_is_over(file: MetricsFile, wrap: Wrap) -> None:
    store = Store()
    store.failures = [RuntimeError("down")]
    queued = wrap(store, retry=1000.0)
    write(queued, file, 1, 2)
    queued.close()
    assert (store.updates, store.begun, store.closed, store.abandoned) == ([], 1, 0, 1)


@pytest.mark.process
def test_a_process_ends_while_its_tracker_hangs() -> None:
    text = (
        "import time\nfrom pathlib import Path\nfrom fairseq.logging.trackers.queue import Queued\n"
        "class Hanging:\n    def begin(self, rows): time.sleep(1000)\n    def abandon(self): print('abandoned')\n"
        "queued = Queued('Hanging', Hanging(), Path('none'), patience=0.1)\n"
        "queued.write('train', 1, 1, {'loss': 1.0})\nqueued.close()\nprint('closed')\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (
        0,
        "abandoned\nclosed\n",
    ) and "not finished after 0.1 seconds" in done.stderr
