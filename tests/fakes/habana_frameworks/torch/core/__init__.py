"""`habana_frameworks.torch.core`, usually imported as htcore."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from habana_frameworks import mode, overwrites, recorder, recording

_closures: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
_warned = False


def mark_step(device_str: str = "", sync: bool = False) -> None:
    global _warned
    recorder.note("mark_step", device_str=device_str, sync=sync)
    if not mode.is_lazy():
        if not _warned:
            warnings.warn("mark_step does nothing in eager mode", stacklevel=2)
            _warned = True
        return
    if not overwrites.is_replaying():
        recording.cut()
    while _closures:
        closure, args = _closures.pop(0)
        closure(*args)


def iter_mark_step() -> None:
    mark_step()


def add_step_closure(closure: Callable[..., Any], args: tuple[Any, ...] = ()) -> None:
    _closures.append((closure, args))


if not mode.is_lazy() and "torch._dynamo" in sys.modules:  # otherwise torch finds the backend by its entry point
    from habana_frameworks.torch.dynamo.compile_backend.backends import register

    register()
