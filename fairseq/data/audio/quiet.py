"""Suppress what C libraries print on standard error while decoding."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0  # number of threads in `silenced`
_before: int | None = None  # the original value of C's `stderr`
_nowhere: int | None = None  # a FILE * of the null device, opened once


@contextmanager
def silenced() -> Iterator[None]:
    """Discard text that C code prints through stdio's `stderr` within the block.

    libmpg123 prints a line for each damaged frame, and libsndfile does not expose the option that disables this. Only
    C's variable changes: Python's standard error, C++ streams and the file descriptor are not affected. If the C
    library has no such variable, nothing is discarded.
    """
    global _inside, _before
    variable = _variable()
    if variable is None:
        yield
        return
    with _lock:
        if _inside == 0:
            _before, variable.value = variable.value, _null_file()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                variable.value = _before


@functools.cache
def _variable() -> ctypes.c_void_p | None:
    """Return C's variable `stderr`; None if it does not exist."""
    try:
        return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")
    except (ValueError, TypeError, OSError):  # another name in this C library, or Windows
        return None


def _null_file() -> int:
    global _nowhere
    if _nowhere is None:
        open_file = ctypes.CDLL(None).fopen
        open_file.restype = ctypes.c_void_p
        _nowhere = open_file(os.devnull.encode(), b"w")
    return _nowhere or _before or 0
