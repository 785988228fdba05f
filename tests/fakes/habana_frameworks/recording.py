"""Graphs of lazy mode, from the stream of operators.

The rule for what is in a graph's key and what is an input is the bridge's: see `fairseq.preflight.graph_keys`.
"""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from fairseq.preflight import kernels
from fairseq.preflight.graph_keys import Call, Change, Compiled, Recorder
from habana_frameworks import mode, recorder

compiled = Compiled()
# for each compilation but the first: where the graph differs from the most similar one
changes: list[Change] = []


def _ended(calls: list[Call]) -> None:
    change = compiled.add(calls)
    if change is not None:
        changes.append(change)


_recorder = Recorder(_ended)


class _Recording(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        _recorder.note(func, kernels.name_of(func), args, kwargs, result, lambda: "")
        return result


def install() -> None:
    if mode.is_lazy():
        recording = _Recording()
        recording.__enter__()
        recorder.undo.append(lambda: recording.__exit__(None, None, None))


def cut() -> None:
    _recorder.cut()
