"""The report of a check: sections of aligned lines with the problems last, and the same as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_WIDTH = 120
_LABEL = 14


class Problem(NamedTuple):
    """Something that would stop or slow a run, or make it learn the wrong thing."""

    name: str  # short, and stable across releases
    what: str
    change: str  # what to change


@dataclass
class Section:
    """One part of the report."""

    title: str
    lines: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)  # plain, for JSON
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is unusual but stops nothing, and what could not be checked

    def say(self, label: str, text: str) -> None:
        """Add a labelled line; long text wraps with a hanging indent."""
        indent = " " * (_LABEL + 2)
        wrapped = textwrap.wrap(text, _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False) or [""]
        self.lines.append(f"  {label:<{_LABEL}}{wrapped[0]}")
        self.lines.extend(indent + line for line in wrapped[1:])

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table: the first column is left-aligned, the others are right-aligned."""
        cells = [list(head), *(list(row) for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        for row in cells:
            first, *others = [
                cell.ljust(width) if not place else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.lines.append(("  " + "  ".join([first.ljust(_LABEL - 2), *others])).rstrip())

    def problem(self, name: str, what: str, change: str) -> None:
        self.problems.append(Problem(name, what, change))


@dataclass
class Report:
    """All findings of a check."""

    headline: str
    sections: list[Section] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        return [note for section in self.sections for note in section.notes]

    @property
    def problems(self) -> list[Problem]:
        return [problem for section in self.sections for problem in section.problems]

    def values(self, name: str) -> Any:
        """Return a section's value by its name; None if no section has it."""
        return next((section.values[name] for section in self.sections if name in section.values), None)

    @property
    def status(self) -> int:
        """Exit status: 0 only if nothing would stop or slow the run."""
        return 1 if self.problems else 0

    def text(self) -> str:
        """Format the report as text, with the verdict last."""
        lines = [self.headline]
        for section in self.sections:
            if section.lines:
                lines += ["", section.title, *section.lines]
        if self.notes:
            lines += ["", "Notes"]
            for note in self.notes:
                lines += textwrap.wrap(
                    note, _WIDTH - 2, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
                )
        return "\n".join([*lines, "", *self._verdict()])

    def _verdict(self) -> list[str]:
        if not self.problems:
            return ["Nothing found that would stop or slow this run."]
        lines = ["1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"]
        for problem in self.problems:
            lines.append(f"  [{problem.name}]")
            for prefix, text in (
                (("", problem.what), ("-> ", problem.change)) if problem.change else (("", problem.what),)
            ):
                lines += textwrap.wrap(
                    prefix + text,
                    _WIDTH,
                    initial_indent="    ",
                    subsequent_indent="    " + " " * len(prefix),
                    break_on_hyphens=False,
                    break_long_words=False,
                )
        return lines

    def as_json(self) -> dict[str, Any]:
        return {
            "headline": self.headline,
            **{section.title.split(":")[0].lower(): section.values for section in self.sections if section.values},
            "notes": self.notes,
            "problems": [problem._asdict() for problem in self.problems],
            "status": self.status,
        }


def gigabytes(count: float) -> str:
    """Format bytes as GiB, with two or three significant digits."""
    size = count / 2**30
    return f"{size:.2f}" if size < 1 else f"{size:.1f}" if size < 100 else f"{size:.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
