"""Signals that end a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from fairseq.distributed import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", signals.ENDING)
def test_the_first_signal_is_the_wish_and_handlers_come_back(number: signal.Signals) -> None:
    ignored = [each for each in signals.ENDING if signal.getsignal(each) is signal.SIG_IGN]
    if number in ignored:
        pytest.skip(f"these tests run under nohup or the like, which has {number.name} ignored")
    before = {each: signal.getsignal(each) for each in signals.ENDING}
    wishes: list[str] = []
    with signals.caught(lambda: wishes.append("stop")) as ending:
        assert signals.received() is None
        send(number)
        send(signal.SIGTERM)
        until(lambda: ending.seconds_since is not None)
        assert (signals.received(), wishes) == (number.name, ["stop"])
        signals.check_wait()  # there is time left
    assert signals.received() is None and {each: signal.getsignal(each) for each in signals.ENDING} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.caught(lambda: None):
            send(signal.SIGHUP)
            assert signals.received() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_wait_ends_some_time_after_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE", 0.05)
    signals.check_wait()  # outside of a run
    with signals.caught(lambda: None) as ending:
        signals.check_wait()
        send(signal.SIGTERM)
        until(lambda: (ending.seconds_since or 0) > 0.1)
        with pytest.raises(signals.WaitEnded):
            signals.check_wait()


# the main thread is inside a library, where Python runs no handler
STUCK = """import ctypes, os, signal, sys, threading, time
from fairseq.distributed import signals
signals.AGAIN = 0.3
signals.set_stuck(lambda: {stuck})
signals.LOST = 0.5
def send():
    for pause in {pauses}:
        time.sleep(pause)
        os.kill(os.getpid(), signal.{number})
with signals.caught(lambda: None):
    threading.Thread(target=send, daemon=True).start()
    lock = ctypes.CDLL(None)
    end = time.monotonic() + {seconds}
    while time.monotonic() < end:
        lock.usleep(int(1e6 * (end - time.monotonic())))
print("survived")
"""


def run_stuck(**how: object) -> subprocess.CompletedProcess[str]:
    text = STUCK.format(**{"stuck": False, "seconds": 30, "number": "SIGINT", **how})
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


@pytest.mark.process
def test_a_second_ctrl_c_ends_at_once_whatever_the_main_thread_does() -> None:
    done = run_stuck(pauses=(0.2, 3.0))
    assert (
        done.returncode == 130
        and "ended at once by a second Ctrl-C; not saved" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.process
def test_one_ctrl_c_that_is_delivered_twice_is_one() -> None:
    done = run_stuck(pauses=(0.2, 0.0), seconds=2)
    assert done.returncode == 0 and done.stdout == "survived\n"


@pytest.mark.process
def test_a_process_that_waits_for_a_lost_one_ends_unsaved() -> None:
    done = run_stuck(pauses=(0.2,), number="SIGTERM", stuck=True)
    assert done.returncode == 1 and "while waiting for another process; not saved" in done.stderr


@pytest.mark.process
@pytest.mark.parametrize(("name", "status"), [("fairseq-hydra-train", 130), ("notebook", -signal.SIGINT)])
def test_ctrl_c_while_the_command_still_imports(name: str, status: int) -> None:
    """Other programs that import the package keep Python's KeyboardInterrupt."""
    text = (
        f"import sys; sys.argv[0] = '/bin/{name}'\nimport os, signal, fairseq_cli\nos.kill(os.getpid(), "
        "signal.SIGINT)\nsignal.pause()"
    )
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, **heed)
    assert done.returncode == status and ("Traceback" in done.stderr) == (status != 130)
