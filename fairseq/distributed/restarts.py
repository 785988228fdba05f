"""Start a run again after one of its processes died: here for spawned processes, together with torchrun for its own.

After a death, all processes end and a new attempt starts, which resumes from the last checkpoint. torchrun does that
with `--max-restarts`, this module with `distributed_training.max_restarts`. torch's `elastic_launch` is not used for
spawned processes: its agent replaces signal handlers, kills processes that still save after 30 seconds, prints one
report per attempt, and turns exit statuses 74 and 75 into failures, so `launch` would have to undo most of it; the loop
that it would save is `until_done`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from fairseq.distributed.failures import ERROR_FILE, Failure, RunFailed
from fairseq.distributed.place import Place

logger = logging.getLogger(__name__)

SESSION = "FAIRSEQ_SESSION"  # environment variable: an id of the torchrun that started this process
_POLL = 0.1  # seconds between two looks at the store
_CAUSE = 3.0  # seconds that a process waits for the cause of another one's end


class Attempt(NamedTuple):
    """One start of a run's processes."""

    number: int = 0  # restarts so far
    limit: int = 0  # restarts allowed
    cause: str = ""  # why the attempt before it ended

    @property
    def is_last(self) -> bool:
        return self.number >= self.limit

    def describe(self) -> str:
        """Return the first part of the log line of a restart; empty in the first attempt."""
        if self.number == 0 and not self.cause:
            return ""
        after = f", after {self.cause}" if self.cause else ""
        return f"restart {self.number} of {self.limit}{after}"


current = Attempt()  # of this process


def from_environment() -> Attempt:
    """Read torchrun's counts; without torchrun, this is the only attempt."""
    number, limit = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    return Attempt(int(number), int(limit))


def begin(attempt: Attempt) -> None:
    """Set the attempt that this process belongs to."""
    global current
    current = attempt


def until_done(attempt: Callable[[Attempt], int], limit: int) -> int:
    """Run attempts until one ends without the death of a process; returns its exit status.

    The user's mistakes and signals are not deaths: `attempt` raises ConfigError, or returns the exit status.

    Raises:
        RunFailed: a process failed or died in the attempt after `limit` restarts.
    """
    cause = ""
    for number in range(limit + 1):
        try:
            return attempt(Attempt(number, limit, cause))
        except RunFailed as error:
            if number == limit:
                raise
            logger.error("%s", error)
            logger.warning("restart %d of %d: all processes start again from the last checkpoint", number + 1, limit)
            cause = error.failure.describe().splitlines()[0]
    raise AssertionError("the last attempt returns or raises")


# -- together with torchrun --------------------------------------------------------------------------------------------


def outlives_processes() -> bool:
    """Whether the run's store is in torchrun's own process, so that it keeps the keys of earlier attempts."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


class Meeting:
    """The processes of one attempt, in a store that also holds the keys of earlier attempts.

    torchrun's own count does not name an attempt: an agent that restarts because another node's process died does not
    count it, and with static rendezvous a node can start its next attempt while another node's processes of the last
    one still run.

    Args:
        store: served by torchrun.
    """

    def __init__(self, store: dist.Store, place: Place) -> None:
        self._store, self._place = dist.PrefixStore("meeting", store), place
        self.attempt = ""

    def join(self, timeout: timedelta) -> str:
        """Wait for all processes of this attempt; returns a prefix for keys that only this attempt uses.

        Raises:
            RuntimeError: not all of them came in time.
        """
        deadline = time.monotonic() + timeout.total_seconds()
        if self._place.rank == 0:
            self._call_together(deadline)
        else:
            self._follow(deadline)
        self._store.set(f"{self.attempt}/began/{self._place.rank}", self._who())
        return f"run{self.attempt}"

    def session(self) -> str:
        """Return an id of this torchrun, the same in all processes of all attempts."""
        return self._store.compare_set("session", "", uuid.uuid4().hex).decode()

    def _who(self) -> str:
        local = f"local rank {self._place.local_rank} on {socket.gethostname()}"
        return f"rank {self._place.rank} ({local}, process {os.getpid()})"

    def _call_together(self, deadline: float) -> None:
        self.attempt = str(self._store.add("attempts", 1))
        others, answered = range(1, self._place.world_size), set()
        while True:
            here = {rank: f"here/{rank}" for rank in others if self._store.check([f"here/{rank}"])}
            tokens = dict(zip(here, self._store.multi_get(list(here.values())), strict=True)) if here else {}
            for token in {token.decode() for token in tokens.values()} - answered:
                self._store.set(f"answer/{token}", self.attempt)  # to a process of an earlier attempt: nobody reads it
                answered.add(token)
            missing = [rank for rank in others if rank not in tokens or not self._has_joined(tokens[rank].decode())]
            if not missing:
                self._store.set(f"{self.attempt}/complete", "")
                return
            self._wait(deadline, f"ranks {missing}")

    def _has_joined(self, token: str) -> bool:
        return self._store.check([f"{self.attempt}/joined/{token}"])

    def _follow(self, deadline: float) -> None:
        token = uuid.uuid4().hex
        self._store.set(f"here/{self._place.rank}", token)
        while True:
            if self._store.check([f"answer/{token}"]):
                attempt = self._store.get(f"answer/{token}").decode()
                if attempt != self.attempt:  # it can change: an earlier rank 0 may have answered before it died
                    self.attempt = attempt
                    self._store.set(f"{attempt}/joined/{token}", "")
                if self._store.check([f"{attempt}/complete"]):
                    return
            self._wait(deadline, "rank 0 and the others")

    def _wait(self, deadline: float, whom: str) -> None:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"timed out: {whom} did not start within distributed_training.distributed_timeout. Check the log of "
                "their machines."
            )
        time.sleep(_POLL)

    # -- how attempts end ----------------------------------------------------------------------------------------------

    def report(self, failure: Failure | None) -> None:
        """Record that this process ends by itself, and why if it failed."""
        with contextlib.suppress(RuntimeError):  # torchrun has ended
            if failure is not None and not failure.follows:
                self._store.compare_set(f"{self.attempt}/cause", "", json.dumps(failure))
            self._store.set(f"{self.attempt}/ended/{self._place.rank}", "")

    def explain(self, failure: Failure) -> Failure:
        """Report a failure of this process; if it follows from another one's, return it with that one's cause."""
        self.report(failure)
        if not failure.follows:
            return failure
        until = time.monotonic() + _CAUSE
        with contextlib.suppress(RuntimeError):
            while not (known := self._store.check([f"{self.attempt}/cause"])) and time.monotonic() < until:
                time.sleep(_POLL)
            if known:
                first = Failure(*json.loads(self._store.get(f"{self.attempt}/cause")))
                sentence = f"ended because {first.describe().splitlines()[0]}"
                return failure._replace(sentence=sentence, mistake=first.mistake)
        return failure

    def end_of_last_attempt(self) -> str:
        """Say why the attempt before this one ended; empty if this is the first."""
        last = int(self.attempt) - 1
        if last < 1:
            return ""
        if self._store.check([f"{last}/cause"]):
            return Failure(*json.loads(self._store.get(f"{last}/cause"))).describe().splitlines()[0]
        gone = [rank for rank in range(self._place.world_size) if not self._store.check([f"{last}/ended/{rank}"])]
        known = [rank for rank in gone if self._store.check([f"{last}/began/{rank}"])]
        if not known:
            return "the end of a process that torchrun reports above"
        return f"{self._store.get(f'{last}/began/{known[0]}').decode()} was killed"


def end_torchrun(why: str) -> None:
    """End torchrun if it would start this run again: to torchrun, any exit status other than 0 is a failure.

    Call it after everything is saved; of the processes of a node, the first one to call it sends SIGTERM. torchrun then
    ends with a SignalException.
    """
    agent, error_file = os.getppid(), os.environ.get(ERROR_FILE)
    if "TORCHELASTIC_RUN_ID" not in os.environ or from_environment().is_last or agent <= 1:
        return
    if error_file:  # a second SIGTERM would interrupt torchrun while it ends the processes of this node
        try:
            (Path(error_file).parent.parent / "ending").touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError as error:
            logger.debug("no mark for the other processes: %s", error)
    logger.warning("%s, so torchrun must not restart it: sending SIGTERM to torchrun (process %d)", why, agent)
    with contextlib.suppress(OSError):
        os.kill(agent, signal.SIGTERM)
