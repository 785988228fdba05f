"""Signs of life of long work: a bar on a terminal, else a log line every few seconds."""

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
        title: what is being done, before the counts.
        total: items in all.
        unit: what the items are.
        bar: False: log lines on a terminal too, where results are printed meanwhile.
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
        """Count items that are done."""
        self.done += items
        if self._bar is not None:
            self._bar.update(items)
        self.tick()

    def tick(self) -> None:
        """Show that the current item is being worked on."""
        if self._bar is not None:
            self._bar.refresh()
            return
        now = time.monotonic()
        if now - self._said >= SECONDS:
            self._said = now
            logger.info("%s: %d of %d %s, %.0f s", self.title, self.done, self.total, self.unit, now - self._began)


def _bar(title: str, total: int, unit: str) -> tuple[Any, AbstractContextManager[Any]]:
    """A bar, and what has log lines printed above it."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    return tqdm(total=total, desc=title, unit=f" {unit}", leave=False), logging_redirect_tqdm()
