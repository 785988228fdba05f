"""Counters of the bridge."""

from __future__ import annotations

from typing import Any

from habana_frameworks import recording

MICROSECONDS = 1000  # per graph
fallbacks: dict[str, int] = {}


class Metric:
    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name

    def stats(self) -> list[tuple[str, Any]]:
        if self._name == "graph_compilation":
            number = len(recording.compiled)
            return [("TotalNumber", number), ("TotalTime", MICROSECONDS * number), ("AvgTime", MICROSECONDS)]
        return [("TotalNumber", sum(fallbacks.values())), ("FallbackOps", dict(fallbacks))]


def metric_global(name: str) -> Metric | None:
    return Metric(name) if name in ("graph_compilation", "cpu_fallback") else None
