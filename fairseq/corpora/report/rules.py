"""Rules: one function per finding. It looks at one record, and returns the evidence if the record has the fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fairseq.corpora.report.records import Finding, Hits, Line

Record = TypeVar("Record")


@dataclass(frozen=True)
class Rule(Generic[Record]):
    """A rule over one type of record."""

    name: str
    severity: str
    title: str
    change: str  # what to do
    judge: Callable[[Record], str | None]  # returns the evidence, or None

    def finding(self, hits: Hits, lines: Callable[[int, str], Line]) -> Finding:
        shown = [lines(utterance, evidence) for utterance, evidence in hits.shown()]
        return Finding(self.name, self.severity, self.title, self.change, hits.count, shown)


class Rules(Generic[Record]):
    """The rules over one type of record, in the order of their definition."""

    def __init__(self) -> None:
        self.rules: list[Rule[Record]] = []

    def rule(
        self, name: str, severity: str, title: str, change: str
    ) -> Callable[[Callable[[Record], str | None]], Callable[[Record], str | None]]:
        """Register the decorated function as a rule."""

        def register(judge: Callable[[Record], str | None]) -> Callable[[Record], str | None]:
            self.rules.append(Rule(name, severity, title, change, judge))
            return judge

        return register

    def apply(self, utterance: int, record: Record, hits: Mapping[str, Hits]) -> None:
        """Judge a record by all rules; `hits` has an entry for every rule."""
        for rule in self.rules:
            evidence = rule.judge(record)
            if evidence is not None:
                hits[rule.name].add(utterance, evidence)

    def no_hits(self) -> dict[str, Hits]:
        return {rule.name: Hits() for rule in self.rules}

    def findings(self, hits: Mapping[str, Hits], lines: Callable[[int, str], Line]) -> list[Finding]:
        return [rule.finding(hits[rule.name], lines) for rule in self.rules if hits[rule.name].count]


def joined(parts: Iterable[Sequence[Finding]], severities: Sequence[str]) -> list[Finding]:
    """Join the findings of several corpora: those of one name become one; the most severe come first."""
    found: dict[str, Finding] = {}
    for finding in (finding for part in parts for finding in part):
        if finding.name in found:
            found[finding.name].count += finding.count
            found[finding.name].lines += finding.lines
        else:
            found[finding.name] = finding
    return sorted(found.values(), key=lambda finding: severities.index(finding.severity))
