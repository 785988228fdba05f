"""Operators of an update and a validation step: where each is called, and which Gaudi's bridge has no kernel for."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, cast

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq.preflight import graph_keys, kernels
from fairseq.preflight.graph_keys import Call, Recorder

# views and autograd's markers: nothing is computed
_NO_KERNEL_NEEDED = {
    "detach",
    "detach_",
    "alias",
    "lift_fresh",
    "lift_fresh_copy",
    "_local_scalar_dense",
    "is_same_size",
}


# the shape of their result depends on values: the host waits for them
_DEPEND_ON_NUMBERS = {
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave.Tensor",
    "bincount",
}


_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_TRACE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
UNKNOWN = "an unknown place"


class Missing(NamedTuple):
    """An operator without a kernel, and where it is called."""

    operator: str
    place: str
    dtype: str | None  # the dtype that has no kernel; None: no dtype has one
    instead: str


class Trace(TorchDispatchMode):
    """Record operators while tensors on the CPU take the HPU's branches.

    An operator that the bridge does not register, but that torch composes of others, is run by torch's general kernel,
    so that those others are looked up instead.

    Args:
        with_calls: keep the calls, in order.
        recorder: gets every operator after it has run.
    """

    def __init__(self, with_calls: bool = False, recorder: Recorder | None = None) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.missing: Counter[Missing] = Counter()
        self.dynamic: set[tuple[str, str]] = set()  # (operator, place) whose result's shape depends on values
        self.calls: list[Call] = []
        self.with_calls = with_calls
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = kernels.name_of(func)
        registered = kernels.has_kernel(func) or name in _NO_KERNEL_NEEDED
        if not registered and kernels.is_composite(func):
            with self:
                return kernels.run_composite(func, args, kwargs)
        self.operators[name] += 1
        if name in _DEPEND_ON_NUMBERS or _indexes_by_mask(name, args):
            self.dynamic.add((name, _place()))
        if self.with_calls:
            self.calls.append(Call(name, graph_keys.signature(func, name, args, kwargs), _place()))
        if not registered:
            self.missing[Missing(name, _place(), None, "")] += 1
        elif (limit := kernels.unsupported_dtype(func, args)) is not None:
            self.missing[Missing(name, _place(), *limit)] += 1
        result = func(*args, **kwargs)
        if self.recorder is not None:
            self.recorder.note(func, name, args, kwargs, result, _place)
        return result


def _place() -> str:
    return place_of_forward() or current_place()


def _indexes_by_mask(name: str, args: tuple[Any, ...]) -> bool:
    if name.split(".")[0] not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


@contextmanager
def tracing(with_calls: bool = False, recorder: Recorder | None = None) -> Iterator[Trace]:
    """Record operators within the context; those of backward get the line of their forward operator."""
    with torch.autograd.set_detect_anomaly(True, check_nan=False), Trace(with_calls, recorder) as trace:
        yield trace


def first_difference(one: list[Call], other: list[Call]) -> str | None:
    """Return the first call that differs between two steps that should be one graph; None if none does."""
    for before, after in zip(one, other, strict=False):
        if before[:2] != after[:2]:
            return f"{after.operator} at {after.place}"
    if len(one) != len(other):
        longer = max(one, other, key=len)[min(len(one), len(other))]
        return f"{longer.operator} at {longer.place}"
    return None


# -- places in the code: the innermost frame that is neither torch's nor this package's --------------------------------


@cache
def _is_foreign(file: str) -> bool:
    return file.startswith((_TORCH, _HERE, "<")) or f"{os.sep}contextlib.py" in file


def current_place() -> str:
    """`file:line` of the code that runs, or UNKNOWN."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _is_foreign(frame.f_code.co_filename):
            return shown_place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return UNKNOWN


def place_of_forward() -> str | None:
    """In backward, return where the forward pass created the running node; None elsewhere.

    Needs torch's anomaly mode, and returns None without it.
    """
    node = torch._C._current_autograd_node()
    if node is None:
        return None
    found = [
        match
        for line in cast(dict[str, list[str]], node.metadata).get("traceback_", [])
        if (match := _TRACE_LINE.search(line))
    ]
    for match in reversed(found):
        if not _is_foreign(match["file"]):
            return f"{shown_place(match['file'], int(match['line']))} (backward)"
    return None


def shown_place(file: str, line: int) -> str:
    """Return `file:line`, with the path relative to the working directory or the checkout if it is inside."""
    return f"{_short(file, os.getcwd())}:{line}"


@cache  # called for every operator
def _short(file: str, folder: str) -> str:
    path = Path(file).resolve()
    for base in (Path(folder), Path(__file__).resolve().parents[2]):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)
