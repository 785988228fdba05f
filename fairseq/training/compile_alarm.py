"""A warning for a run that still compiles graphs after its first updates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping

# visits after which a kind of step compiles nothing: the first, and the one after the optimizer's state was created
SETTLED = 2
MOST_KINDS = 64  # more than any set of buckets needs: with more kinds of steps, shapes do not repeat
# of `Device.counters`
_COMPILED, _SECONDS, _ON_HOST = "hpu_graph_compilations", "hpu_compile_seconds", "hpu_cpu_fallbacks"


class CompileAlarm:
    """Compare a device's counters between two log lines, if every kind of step between them had run twice before."""

    def __init__(self) -> None:
        self._visits: Counter[Hashable] = Counter()
        self._counters: dict[str, float] = {}
        self._had_new = True  # before the first line, every step is new

    def visit(self, kind: Hashable) -> None:
        """Record a step; a kind's graphs, such as those for a batch's shape, are compiled on its first visits."""
        self._had_new |= self._visits[kind] < SETTLED
        self._visits[kind] += 1

    def check(self, counters: Mapping[str, float], updates: int) -> str | None:
        """Return a warning for the log, or None.

        Args:
            counters: the device's current counters.
            updates: updates since the last check.
        """
        rise = {name: value - self._counters.get(name, 0) for name, value in counters.items()}
        expected = self._had_new and len(self._visits) <= MOST_KINDS
        self._counters, self._had_new = dict(counters), False
        compiled, on_host = round(rise.get(_COMPILED, 0)), round(rise.get(_ON_HOST, 0))
        if expected or (compiled <= 0 and on_host <= 0):
            return None
        parts = []
        if compiled > 0:
            parts.append(f"{compiled} graphs were compiled, which took {rise.get(_SECONDS, 0):.1f} s")
        if on_host > 0:
            parts.append(f"{on_host} operators ran on the host")
        kinds = len(self._visits)
        reason = (
            "although each kind of step had run twice before. Something changes between updates: run fairseq-preflight "
            "with the same arguments to find the line."
            if kinds <= MOST_KINDS
            else f"and there have been {kinds} kinds of steps so far. Set task.num_batch_buckets=7 and "
            "task.enable_padding=true, so that batches have few shapes."
        )
        return f"in the last {updates} updates {', and '.join(parts)}, {reason}"
