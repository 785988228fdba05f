"""Counters of the bridge. A graph is known by the place that ended it."""

from __future__ import annotations

from typing import Any

_graphs: set[Any] = set()
fallbacks: dict[str, int] = {}


def note_graph(site: Any) -> None:
    _graphs.add(site)


class Metric:
    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name

    def stats(self) -> list[tuple[str, Any]]:
        if self._name == "graph_compilation":
            return [("TotalNumber", len(_graphs)), ("TotalTime", 1000 * len(_graphs)), ("AvgTime", 1000)]
        return [("TotalNumber", sum(fallbacks.values())), ("FallbackOps", dict(fallbacks))]


def metric_global(name: str) -> Metric | None:
    return Metric(name) if name in ("graph_compilation", "cpu_fallback") else None
