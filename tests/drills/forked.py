"""Run one try in a child process, and check whether its outcome is allowed."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

MEMORY = 1 << 30  # bytes that a try can use in addition to the parent's
SECONDS = 30.0


class Outcome(NamedTuple):
    """Outcome of a try.

    `kind`: right, refused (a clear error that names the file), unnamed (clear, but without the file), exception, hang,
    memory, died.
    """

    kind: str
    text: str = ""

    @property
    def is_allowed(self) -> bool:
        return self.kind in ("right", "refused")


def attempt(
    action: Callable[[], str],
    name: str,
    clear: tuple[type[BaseException], ...] = (ValueError, OSError),
    seconds: float = SECONDS,
) -> Outcome:
    """Run `action` in a forked child.

    Args:
        action: does the work and returns a word for the result; raises AssertionError if the result is wrong.
        name: text that a clear error must contain, usually the file's name.
        clear: exceptions that users may see; any other is a fault.
    """
    reader, writer = os.pipe()
    before = _resident_bytes()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()  # so that its descendants can be killed with it
        outcome = _in_child(action, name, clear)
        os.write(writer, f"{outcome.kind}\n{outcome.text}"[:60000].encode(errors="replace"))
        os._exit(0)
    os.close(writer)
    said = _read_until(reader, time.monotonic() + seconds)
    os.close(reader)
    if said is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Outcome("hang", f"no end after {seconds:.0f} s")
    _, status, usage = os.wait4(child, 0)
    if usage.ru_maxrss * 1024 - before > MEMORY:
        return Outcome("memory", f"{usage.ru_maxrss / 2**20:.2f} GiB peak")
    if not said:
        return Outcome("died", f"wait status {status}")
    kind, _, text = said.decode(errors="replace").partition("\n")
    return Outcome(kind, text)


def _in_child(action: Callable[[], str], name: str, clear: tuple[type[BaseException], ...]) -> Outcome:
    try:
        return Outcome("right", action())
    except SystemExit as end:  # a command that rejects its input: the message is the exit's argument
        text = str(end.code)
    except clear as error:
        text = str(error)
    except BaseException:
        return Outcome("exception", traceback.format_exc())
    return Outcome("refused" if name in text else "unnamed", text)


def _read_until(reader: int, deadline: float) -> bytes | None:
    """Return everything that the child wrote; None if it did not end in time."""
    said = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        part = os.read(reader, 65536)
        if not part:
            return said
        said += part


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Tally:
    """Count outcomes, and keep the first few that are not allowed."""

    def __init__(self, title: str, show: int = 10) -> None:
        self.title, self.show = title, show
        self.counts: Counter[str] = Counter()
        self.faults: list[tuple[str, Outcome]] = []

    def add(self, label: str, outcome: Outcome) -> None:
        self.counts[outcome.kind] += 1
        if not outcome.is_allowed:
            self.faults.append((label, outcome))

    def report(self) -> bool:
        """Print the counts and the faults; returns whether there were no faults."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        print(f"{self.title}: {sum(self.counts.values())} tries: {counts}; {len(self.faults)} faults", flush=True)
        for label, outcome in self.faults[: self.show]:
            print(f"  {label}: {outcome.kind}: {outcome.text[-1500:]}")
        return not self.faults
