"""Lazy or eager mode: read from the environment once, at first use, as the bridge does."""

from __future__ import annotations

import functools
import os


@functools.cache
def is_lazy() -> bool:
    return os.environ.get("PT_HPU_LAZY_MODE", "1") != "0"


def lazy_only(what: str) -> None:
    if not is_lazy():
        raise RuntimeError(f"{what} is only supported in lazy mode")
