"""Counts of the lazy-tensor device: graphs compiled and run, graph cuts, and the lines of code that cause them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

_TORCH = str(Path(torch.__file__).parent)
_DEVICE_LAYER = str(Path(__file__).parent)
READS = {
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "nonzero",
    "masked_select",
    "unique",
    "equal",
}

_graphs_at_steps = 0  # graphs that ran inside `mark_step`


class GraphCounts(NamedTuple):
    """Counts since the process started; `since` subtracts two of them."""

    compiled: int  # new graphs
    ran: int  # graphs that ran, new or not
    steps: int  # those of them that a `mark_step` ran
    # operators that torch's backend cannot record and runs directly; each cuts the graph
    fallbacks: dict[str, int]

    @property
    def cuts(self) -> int:
        """Graphs that ran without a `mark_step`: a value was read, or an operator could not be recorded."""
        return self.ran - self.steps

    def since(self, before: GraphCounts) -> GraphCounts:
        fallbacks = Counter(self.fallbacks)
        fallbacks.subtract(before.fallbacks)
        changed = {name: times for name, times in fallbacks.items() if times}
        return GraphCounts(self.compiled - before.compiled, self.ran - before.ran, self.steps - before.steps, changed)


def graph_counts() -> GraphCounts:
    """Return the current counts. Do not call `torch._lazy.metrics.reset` between two that you compare."""
    return GraphCounts(_value("UncachedCompile"), _graphs_run(), _graphs_at_steps, _fallbacks())


def counted_step(mark_step: Callable[[], None]) -> None:
    """Call `mark_step`, without counting the graphs that it runs as cuts."""
    global _graphs_at_steps
    before = _graphs_run()
    mark_step()
    _graphs_at_steps += _graphs_run() - before


def _graphs_run() -> int:
    return _value("UncachedCompile") + _value("CachedCompile")


def _fallbacks() -> dict[str, int]:
    import torch._lazy.metrics as lazy_metrics

    return {name: _value(name) for name in _operators(tuple(lazy_metrics.counter_names()))}


@lru_cache(maxsize=4)  # the names rarely change, and `CutFinder` asks twice an operator
def _operators(counters: tuple[str, ...]) -> list[str]:
    return [name for name in counters if name.startswith("aten::")]


def _value(name: str) -> int:
    import torch._lazy.metrics as lazy_metrics

    return lazy_metrics.counter_value(name) or 0


class Cut(NamedTuple):
    """A place where a graph was cut, or a value read."""

    file: str
    line: int
    operator: str  # torch function that was called there; `backward` for the whole backward pass
    fell_back: bool  # torch's backend could not record it and ran it directly; an HPU may record it


class CutFinder(TorchFunctionMode):
    """Find the lines that cut a graph or read a value of the lazy device.

    Use it as `with CutFinder() as finder: ...`, then read `finder.places`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[Cut] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        graphs, fallbacks = self._cuts()
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        reads = name in READS and any(isinstance(arg, torch.Tensor) and arg.device.type == "lazy" for arg in args)
        if reads or self._cuts() != (graphs, fallbacks):
            self.places[_cut_by_caller(name, self._cuts()[1] > fallbacks)] += 1
        return result

    def _cuts(self) -> tuple[int, int]:
        """Graphs run without a `mark_step`, and operators run directly (no cut if nothing was pending)."""
        return _graphs_run() - _graphs_at_steps, sum(_fallbacks().values())


def _cut_by_caller(operator: str, fell_back: bool) -> Cut:
    """Return a cut at the innermost line of code outside torch and the device layer."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_TORCH, _DEVICE_LAYER)):
        frame = frame.f_back
    return Cut(frame.f_code.co_filename, frame.f_lineno, operator, fell_back)
