"""Progress of long tasks: a bar on a terminal, else a log line every 10 s."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

SECONDS = 10.0  # between two log lines


class Progress:
    """Counts finished items.

    Args:
        title: the task, shown before the counts.
        total: number of items.
        unit: plural noun for the items.
        bar: False means log lines even on a terminal, for commands that print results at the same time.
    """

    def __init__(self, title: str, total: int, unit: str = "utterances", bar: bool = True) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self._began = 0, time.monotonic()
        self._said = self._began
        self._bar, self._logging = _bar(title, total, unit) if bar and sys.stderr.isatty() else (None, nullcontext())

    def __enter__(self) -> Progress:
        self._logging.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._logging.__exit__(kind, error, trace)

    def advance(self, items: int = 1) -> None:
        """Add finished items to the count."""
        self.done += items
        if self._bar is not None:
            self._bar.update(items)
        self.tick()

    def tick(self) -> None:
        """Report progress within the current item."""
        if self._bar is not None:
            self._bar.refresh()
            return
        now = time.monotonic()
        if now - self._said >= SECONDS:
            self._said = now
            logger.info("%s: %d of %d %s, %.0f s", self.title, self.done, self.total, self.unit, now - self._began)


def _bar(title: str, total: int, unit: str) -> tuple[Any, AbstractContextManager[Any]]:
    """Return a bar, and a context that prints log lines above it."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    return tqdm(total=total, desc=title, unit=f" {unit}", leave=False), logging_redirect_tqdm()
