"""Findings, and the registry of the causes that are looked for.

To add a cause, write a function of `Records` in a module of this package, decorate it with `cause`, and describe it in
docs/doctor.md under a heading with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from fairseq.doctor.records import Records

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the most severe first


class Finding(NamedTuple):
    """One thing that a run's records show.

    Args:
        name: the cause, such as codebook-collapse; the heading of docs/doctor.md that explains it.
        severity: error: the run has failed, or will; warning: it loses quality or time; note: worth knowing, no alarm.
        title: a sentence that says what is wrong.
        evidence: the numbers that show it, a sentence each.
        change: what to do.
        begin, end: the first and the last update that show it.
        badness: how bad it is, above 0; a live run says a finding again when this has grown by half.
        metric: the value that shows it, a column of the records; empty: none.
        split: the rows of that value; see `Records.rows`.
        has_collapsed: the run learns nothing any more, so `common.doctor=stop` ends it.
    """

    name: str
    severity: Severity
    title: str
    evidence: Sequence[str]
    change: str
    begin: int
    end: int
    badness: float = 1.0
    metric: str = ""
    split: str = "train_inner"
    has_collapsed: bool = False


Cause = Callable[[Records], "Finding | None"]
CAUSES: dict[str, Cause] = {}


def cause(name: str, updates: int = 0) -> Callable[[Cause], Cause]:
    """Decorate a function that looks for one cause.

    It must be fast on long runs (numpy over whole columns), must bear missing columns and rows, and returns None where
    the records do not say.

    Args:
        updates: how many updates the records must cover before the cause is looked for. Every run is at chance, says
            only blanks and changes fast in its first updates, and a trial of a few updates never gets further.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Cause) -> Cause:
        if name in CAUSES:
            raise ValueError(f"the cause {name!r} is already registered")
        CAUSES[name] = lambda records: function(records) if records.covered >= updates else None
        return function

    return register


def examine(records: Records) -> list[Finding]:
    """Look for all causes; the most severe findings first, then those that began first."""
    found = [finding for function in CAUSES.values() if (finding := function(records)) is not None]
    return sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), finding.begin))
