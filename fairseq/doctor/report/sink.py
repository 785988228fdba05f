"""`common.report`: report.html next to the checkpoints, rebuilt at each validation.

The page is built by `fairseq-report` in a process of its own, at the lowest priority: training neither waits for it
nor shares Python's lock with it, and its end, however it ends, does not concern the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from fairseq.dataclass.common_config import CommonConfig
from fairseq.logging.progress_bar import Stats
from fairseq.logging.sinks import EPOCH, INTERVAL, Sink, Start, register_sink
from fairseq.pages import assets

logger = logging.getLogger(__name__)

PAGE = "report.html"
SECONDS = 30.0  # that the end of a run waits for its last page
_LOWEST = 19  # priority
_SOURCES = Path(__file__).resolve().parents[3]


def _problem(common: CommonConfig) -> str | None:
    if not common.report:
        return None
    try:
        assets.check()
    except ValueError as error:
        return f"common.report=true: {error}. Or set common.report=false."
    return None


@register_sink("common.report", _problem)
def open_report(start: Start) -> Sink | None:
    """The report of the run so far, in the folder of the checkpoints."""
    return Reporter(start.save_dir) if start.common.report else None


class Reporter:
    """A sink that builds a page at each validation, one at a time, and a last one when the run ends.

    Args:
        folder: of the run's records, and of the page.
        command: builds the page; None: `fairseq-report`.
    """

    def __init__(self, folder: Path, command: Sequence[str] | None = None) -> None:
        self._path = folder / PAGE
        self._command = command or (
            *(sys.executable, "-m", "fairseq_cli.report", os.path.abspath(folder)),
            *("-o", os.path.abspath(self._path)),
        )
        self._building: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._is_due = False  # a validation has ended since the last build began
        self._is_behind = False  # rows have come since
        self._has_failed = False

    def write(self, split: str, update: int, epoch: int, stats: Stats) -> None:
        """Take a row; see `fairseq.logging.sinks.Sink`.

        Raises:
            OSError: the process cannot be started.
        """
        self._is_behind = True
        if split not in (INTERVAL, EPOCH):
            self._is_due = True
        if self._is_due and self._is_free():
            self._start()

    def close(self) -> None:
        """Build the last page, and wait for it, but not for long."""
        self._wait()
        if self._is_behind:
            self._start("--ended")
            self._wait()

    def _is_free(self) -> bool:
        """Say whether no page is being built; one that has just been built is settled."""
        if self._building is None:
            return True
        status = self._building.poll()
        if status is None:
            return False
        self._building = None
        assert self._errors is not None
        with self._errors as errors:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
        if status:
            self._report(lines[-1] if lines else f"its process returned {status}")
        return True

    def _start(self, *arguments: str) -> None:
        self._is_due = self._is_behind = False
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_SOURCES), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",  # the devices are the run's
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 # read and closed when the process has ended
        self._building = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # a signal to the run is not one to it
        )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._building.pid, _LOWEST)

    def _wait(self) -> None:
        if self._building is None:
            return
        try:
            self._building.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._building.kill()
            self._building.wait()
            self._report(f"it took more than {SECONDS:.0f} s. Build it with fairseq-report")
        self._is_free()

    def _report(self, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            logger.error("cannot build %s: %s; training continues without it", self._path, reason)
