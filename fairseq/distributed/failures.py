"""Why a process of a run ended: one cause for the whole run, printed once, at the end of the log."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Iterable
from typing import NamedTuple

from fairseq.dataclass.base import ConfigError
from fairseq.distributed.exit_status import HUNG
from fairseq.distributed.place import Place, place_from_environment

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun prints this file's text at the end of its log
# what gloo, NCCL and torch's store say in a process whose counterpart has ended
_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote server shutdown",
    "remote process exited",
    "communicator was aborted",
    "failed to recv, got 0 bytes",
)
# torchrun takes the failure with the smallest time for the cause, and has only the time of discovery for a killed rank
_AFTER_OTHERS = 60


class Failure(NamedTuple):
    """The end of one process of a run."""

    rank: int
    local_rank: int
    host: str
    pid: int
    sentence: str  # what happened to "rank 1 ...": "failed: RuntimeError: ...", "was killed by SIGKILL"
    traceback: str = ""  # "" if the sentence is enough
    follows: bool = False  # it failed only because another process had ended
    mistake: bool = False  # the user's: a new attempt would fail in the same way
    at: float = 0.0  # time.time()
    status: int = 1  # exit status with which the run ends

    def describe(self) -> str:
        return f"rank {self.rank} (local rank {self.local_rank} on {self.host}, process {self.pid}) {self.sentence}"

    def text(self) -> str:
        """The whole cause, with its last line the shortest form of it."""
        return f"{self.traceback.rstrip()}\n{self.describe()}" if self.traceback else self.describe()


class RunFailed(RuntimeError):
    """A process of the run failed; `str` is the cause, as it is printed at the end of the log."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text())
        self.failure = failure

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return RunFailed, (self.failure,)


def of_error(error: BaseException, place: Place) -> Failure:
    """Describe the error with which this process ends."""
    mistake = isinstance(error, ConfigError)
    said = str(error).strip()
    follows = isinstance(error, (RuntimeError, ConnectionError)) and any(text in said.lower() for text in _LOST)
    if follows:
        sentence = f"ended because another process had ended ({said.splitlines()[-1][:200]})"
    elif mistake:
        sentence = f"failed: {said}"
    else:
        sentence = f"failed: {type(error).__name__}: {said}"
    lines = "" if follows or mistake else "".join(traceback.format_exception(error))
    pid, host = os.getpid(), socket.gethostname()
    return Failure(place.rank, place.local_rank, host, pid, sentence, lines, follows, mistake, time.time())


def of_exit(rank: int, pid: int, code: int) -> Failure:
    """Describe a process of this machine that ended without a report.

    Args:
        code: its exit status; negative: the signal that killed it.
    """
    if code == HUNG:
        sentence = f"ended with status {code}: a process made no progress (the log names it above)"
    elif code >= 0:
        sentence = f"ended with status {code}"
    else:
        known = -code in set(signal.Signals)
        sentence = f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
    if -code == signal.SIGKILL:
        sentence += " (out of memory, unless somebody sent it)"
    return Failure(rank, rank, socket.gethostname(), pid, sentence, at=time.time(), status=max(code, 1))


def cause(failures: Iterable[Failure]) -> Failure:
    """Choose the failure that the others follow from: the first one that does not follow from another."""
    return min(failures, key=lambda failure: (failure.follows, failure.at))


def last_words(error: ConfigError | RunFailed, program: str, is_last: bool) -> str:
    """Return the text that a process prints as it ends; "" if torchrun prints it.

    Args:
        program: the command's name.
        is_last: whether torchrun ends the run after this error, instead of starting it again.
    """
    place = None if "RANK" not in os.environ else place_from_environment()
    failure = error.failure if isinstance(error, RunFailed) else None
    if place is None:  # this process spawned the others, or is alone
        if failure is None or not failure.traceback:
            return f"{program}: {error}"
        return f"{failure.traceback.rstrip()}\n{program}: {failure.describe()}"
    if failure is None:
        text = f"{program}: {error}" if place.rank == 0 else f"{program}: rank {place.rank}: {error}"
        failure = of_error(error, place)
        return "" if _write_error_file(failure, text) and is_last else text
    text = f"{failure.traceback.rstrip()}\n{program}: {failure.describe()}".lstrip()
    printed = _write_error_file(failure, text) and is_last
    return f"{program}: {failure.describe().splitlines()[0]}" if printed else text


def _write_error_file(failure: Failure, text: str) -> bool:
    """Write the text for torchrun, which prints it at the end of its log; returns whether torchrun asked for it."""
    path = os.environ.get(ERROR_FILE)
    if not path:
        return False
    when = str(int(failure.at) + (_AFTER_OTHERS if failure.follows else 0))
    message = {"message": failure.describe(), "extraInfo": {"py_callstack": text, "timestamp": when}}
    try:
        with open(path, "w") as file:
            json.dump({"message": message}, file)
    except OSError:
        return False
    return True
