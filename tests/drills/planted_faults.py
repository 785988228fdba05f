"""The report on 500 healthy utterances and one planted fault of each kind: each is found, nothing else is.

python -m tests.drills.planted_faults [--tries 3] [--healthy 500] [--data ../shared/data] [--page PAGE.html]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fairseq.corpora.report.page import data_page
from fairseq.corpora.report.pool import Bar
from fairseq.corpora.report.report import DataReport, ReportSettings, make_report
from tests.planted import Made, Planted, make

REPOSITORY = Path(__file__).resolve().parents[2]


class Silent:
    """A bar that shows nothing."""

    def advance(self, items: int = 1) -> None:
        pass


def no_bars(title: str, total: int, unit: str) -> contextlib.AbstractContextManager[Bar]:
    return contextlib.nullcontext(Silent())


def report_on(made: Made, workers: int = 1) -> DataReport:
    return make_report(ReportSettings((str(made.train),), (str(made.valid),), workers=workers), no_bars)


def found_in(report: DataReport) -> list[Planted]:
    """Return every line that the report names."""
    return sorted(
        Planted(finding.name, line.number, Path(line.manifest).stem)
        for finding in report.findings
        for line in finding.lines
    )


def table(expected: list[Planted], found: list[Planted], say: Callable[[str], None] = print) -> int:
    """Print a row for each planted fault, and what was raised without one; returns the number of wrong rows."""
    wrong = 0
    for one in expected:
        here = [other.finding for other in found if (other.line, other.manifest) == (one.line, one.manifest)]
        good = here == [one.finding]
        wrong += not good
        say(f"{one.finding:<20} {one.manifest}.tsv:{one.line:<6} {'found' if good else f'WRONG: {here}'}")
    places = {(one.line, one.manifest) for one in expected}
    for other in found:
        if (other.line, other.manifest) not in places:
            wrong += 1
            say(f"raised without a planted fault: {other}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--healthy", type=int, default=500)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared/data")
    parser.add_argument("--page", type=Path, help="write the report's page here")
    parser.add_argument("--tries", type=int, default=3, help="each with other utterances that carry the faults")
    args = parser.parse_args()
    wrong = 0
    for shift in range(args.tries):
        with tempfile.TemporaryDirectory() as folder:
            made = make(args.data, Path(folder), args.healthy, 20, shift)
            report = report_on(made, 2)
            here = table(made.planted, found_in(report))
            if args.page:
                args.page.write_text(data_page(report), encoding="utf-8")
        print(f"try {shift + 1}: {len(made.planted)} faults among {args.healthy} healthy utterances: {here} wrong\n")
        wrong += here
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
