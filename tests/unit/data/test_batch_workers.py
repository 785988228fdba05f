"""Worker processes: how batches travel, and what becomes of a run whose workers die, hang or cannot start."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from fairseq.data import batch_workers
from fairseq.data.batch_workers import BatchWorkers, WorkerDied, receive, send
from fairseq.data.batching import BatchPlan
from fairseq.dataclass.base import RunError
from fairseq.distributed import exit_status, progress, roll_call, signals, watchdog


def plans(number: int) -> Iterator[BatchPlan]:
    for micro in range(number):
        yield BatchPlan(np.arange(3), 3, 1, 0, 1, micro)


def batches(
    make_batch: Callable[[BatchPlan], Any], workers: int = 2, number: int = 6, start_method: str = "fork"
) -> list[Any]:
    return list(BatchWorkers(make_batch, plans(number), workers, ahead=2, start_method=start_method))


class Pair(NamedTuple):
    first: Any
    second: Any


def everything() -> dict[str, Any]:
    return {
        "audio": torch.arange(70_000, dtype=torch.float32).view(7, -1).t(),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "mask": torch.tensor([[True], [False]]),
        "count": torch.tensor(5),
        "empty": torch.empty(0, 3, dtype=torch.int64),
        "nest": [(torch.ones(1), "text"), Pair(torch.zeros(2), None)],
        "numbers": np.arange(4),
    }


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [flat(inner) for inner in value.values()]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(flat, value)]
    return [value.dtype, list(value.shape), value.tolist()] if hasattr(value, "tolist") else value


@pytest.mark.process
@pytest.mark.parametrize("memory_files", [True, False])
def test_a_batch_arrives_as_it_was(monkeypatch: pytest.MonkeyPatch, memory_files: bool) -> None:
    if not memory_files:
        monkeypatch.setattr(os, "memfd_create", no_room)
    here, there = multiprocessing.Pipe()
    # without a memory file it is more than a socket's buffer holds
    thread = threading.Thread(target=send, args=(there, everything()))
    thread.start()
    found = receive(here)
    thread.join()
    assert flat(found) == flat(everything())
    found["audio"].add_(1)  # what comes out can be written to


def no_room(name: str) -> int:
    raise OSError(28, "No space left on device")


def test_no_shared_memory_of_the_system_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker gives /dev/shm 64 MB, of which torch's DataLoader hangs."""

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", refuse)
    found = batches(lambda plan: {"x": torch.full((1000,), plan.micro)})
    assert [batch["x"][0].item() for batch in found] == list(range(6))


def test_a_batch_that_cannot_travel_is_an_error() -> None:
    found = batches(lambda plan: {"x": lambda: None}, number=2)
    assert "could not send its batch" in found[0].message and "lambda" in found[0].message


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("place", ["in_worker", "make", "send"])
def test_a_worker_that_is_killed_ends_the_run_with_advice(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """As it starts, while it makes a batch, and on a batch's way."""
    if place == "in_worker":
        monkeypatch.setattr(signals, "in_worker", kill_itself)
    elif place == "send":
        monkeypatch.setattr(batch_workers, "_send_file", lambda *arguments: kill_itself())
    began = time.monotonic()
    with pytest.raises(WorkerDied, match=r"data-loading worker \d+ was killed by SIGKILL.*dataset.num_workers=0"):
        batches(lambda plan: kill_itself() if place == "make" else torch.ones(3))
    assert time.monotonic() - began < 20


def test_a_worker_that_ends_by_itself() -> None:
    with pytest.raises(WorkerDied, match="ended with status 3"):
        batches(lambda plan: os._exit(3))


@pytest.mark.process
def test_workers_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = multiprocessing.context.ForkProcess.start

    def second_fails(self: Any) -> None:
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(self)
        started.append(self)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", second_fails)
    with pytest.raises(RunError, match="cannot start data-loading worker 2 of 2: Resource temporarily unavailable."):
        batches(lambda plan: 1)
    assert not started[0].is_alive()


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the storage of the audio is gone."""
    monkeypatch.setattr(signals, "GRACE", 0.1)
    wished: list[str] = []
    with signals.caught(lambda: wished.append("stop")):
        workers = BatchWorkers(lambda plan: time.sleep(600), plans(2), 1, 2)
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(signals.WaitEnded):
            next(workers)
        workers.close()
    assert wished == ["stop"]


@pytest.fixture()
def loop() -> Iterator[progress.Progress]:
    yield progress.start_over()
    progress.start_over()  # other tests wait for batches, too


def test_the_watchdog_ends_the_wait_for_a_batch_and_sees_worker_and_file(loop: progress.Progress) -> None:
    """As where the storage of the audio is gone, or a worker is stopped."""

    def hang(plan: BatchPlan) -> None:
        progress.reading("/mnt/lost/a.flac")
        time.sleep(600)

    workers = BatchWorkers(hang, plans(2), 1, 2)
    loop.doing("data")
    seen: list[str] = []

    def look() -> None:
        deadline = time.monotonic() + 30
        while "/mnt/lost/a.flac" not in "".join(seen) and time.monotonic() < deadline:
            seen.append(roll_call.waits_for(loop.step, loop.file, "train.tsv", loop.worker))
            time.sleep(0.02)
        loop.stalled = "no batch"

    threading.Thread(target=look, daemon=True).start()
    with pytest.raises(watchdog.Stalled, match="no batch") as stalled:
        next(workers)
    pid = workers._workers[0].process.pid
    workers.close()
    assert seen[-1].startswith(f"it waits for data-loading worker {pid}, state S (sleeping), which reads /mnt/lost/a")
    assert seen[-1].endswith("of train.tsv") and stalled.value.status == exit_status.HUNG and loop.worker is None


@pytest.mark.parametrize("texts", [("a", "b", "c", "d"), ("a", "a", "a", "a")])
def test_a_worker_that_moves_on_is_progress(loop: progress.Progress, texts: tuple[str, ...]) -> None:
    """Such as one that waits for a store and says so; one that stays in a file is not."""

    def make_batch(plan: BatchPlan) -> None:
        for text in texts:
            progress.reading(text)
            time.sleep(1.0)

    before = loop.beats
    batches(make_batch, workers=1, number=1)
    # the first look may come before the first text
    assert (loop.beats > before + 1) == (len(set(texts)) > 1)


def test_a_worker_that_changes_only_its_state_is_no_progress(
    loop: progress.Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs in a file may be seen running and sleeping in turn."""
    states = itertools.cycle(["R (running)", "S (sleeping)"])
    monkeypatch.setattr(progress, "look_at", lambda pid: progress.Shown(next(states), None, "/mnt/a.flac"))
    before = loop.beats
    batches(lambda plan: time.sleep(3.5), workers=1, number=1)
    assert loop.beats == before


def test_closing_ends_workers_that_are_at_it() -> None:
    workers = BatchWorkers(lambda plan: time.sleep(600) if plan.micro else 7, plans(4), 2, 2)
    assert next(workers) == 7
    processes = [worker.process for worker in workers._workers]
    workers.close()
    assert not any(process.is_alive() for process in processes)


def test_large_plans_do_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans and batches larger than a socket's buffer, without memory files: both sides could wait for each other."""
    monkeypatch.setattr(os, "memfd_create", no_room)
    large = (BatchPlan(np.arange(200_000), 1, 1, 0, 1, micro) for micro in range(8))
    found = list(BatchWorkers(lambda plan: torch.full((300_000,), plan.micro), large, 2, 8))
    assert [int(batch[0]) for batch in found] == list(range(8))


@pytest.mark.process
def test_a_worker_expects_the_next_plans_before_it_makes_a_batch() -> None:
    """And the batches are the same ones in the same order."""
    expected: list[int] = []

    def make_batch(plan: BatchPlan) -> list[int]:
        time.sleep(0.02)  # so that the trainer's next plans are there
        return [plan.micro, *expected]

    found = list(BatchWorkers(make_batch, plans(6), 1, 4, expect=lambda plan: expected.append(plan.micro)))
    assert [batch[0] for batch in found] == list(range(6))
    for micro, *seen in found:
        assert micro in seen and max(seen) <= micro + 2
    assert max(found[3][1:]) > 3

    def refuse(plan: BatchPlan) -> None:
        raise ValueError("a wrong place")

    (failure,) = BatchWorkers(make_batch, plans(1), 1, 2, expect=refuse)
    assert failure.mistake and failure.message == "a wrong place"


def test_a_batchs_file_is_sent_while_plans_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender reads nothing: an answer would be a byte of the next plan, as in Python 3.14's `send_handle`."""
    here, there = multiprocessing.Pipe()
    here.send("a plan that comes before the batch is sent")
    batch_workers.send(there, {"x": torch.arange(1000)})
    assert batch_workers.receive(here)["x"].tolist() == list(range(1000))
    assert there.recv() == "a plan that comes before the batch is sent"
