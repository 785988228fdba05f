"""Run the public reports in ../shared/cases, one by one: does this checkout give the right result?

    python -m tests.drills.cases [NAME ...] [--tree CHECKOUT] [--shared FOLDER]

`--tree` is the checkout whose code runs (default: this one), so the same judges can show an older commit's results.
Each judge is in a `cases_*.py` next to this file, under the name of its case's folder.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMMANDS = {
    "fairseq-hydra-train": "fairseq_cli.hydra_train",
    "fairseq-train": "fairseq_cli.fairseq_train",
    "fairseq-validate": "fairseq_cli.validate",
    "fairseq-preflight": "fairseq_cli.preflight",
    "fairseq-infer": "fairseq_cli.infer",
    "fairseq-transcribe": "fairseq_cli.transcribe",
    "fairseq-align": "fairseq_cli.align",
    "fairseq-extract": "fairseq_cli.extract",
    "fairseq-convert": "fairseq_cli.convert",
    "fairseq-average-checkpoints": "fairseq_cli.average_checkpoints",
    "fairseq-consolidate": "fairseq_cli.consolidate",
    "fairseq-pack": "fairseq_cli.pack",
    "fairseq-data-report": "fairseq_cli.data_report",
    "fairseq-doctor": "fairseq_cli.doctor",
    "fairseq-segment": "fairseq_cli.segment",
    "fairseq-report": "fairseq_cli.report",
    "fairseq-probe": "fairseq_cli.probe",
}


class Finding(NamedTuple):
    """One row of the table."""

    label: str  # the variant, or "" where a case is one input
    right: bool
    seen: str  # what came out, short enough for a table


class Ended(NamedTuple):
    """Result of a command."""

    code: int
    output: str  # standard output and errors, in the order in which they came
    seconds: float

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output

    @property
    def last_line(self) -> str:
        return (self.output.strip().splitlines() or [""])[-1]


class Case:
    """A writable copy of a case's folder, and commands of the checkout under test."""

    def __init__(self, tree: Path, cases: Path, work: Path, name: str) -> None:
        self.tree, self.cases, self.name = tree, work / "cases", name
        self.shared = cases.parent
        group, _, _ = name.partition("/")
        folder, _, _ = name.partition("#")
        for part in (folder, f"{group}/common"):
            if (cases / part).is_dir() and not (self.cases / part).exists():
                shutil.copytree(cases / part, self.cases / part)
        for manifest in self.cases.rglob("*.tsv"):
            if b"$CASES" in (old := manifest.read_bytes()):
                manifest.write_bytes(old.replace(b"$CASES", os.fsencode(self.cases)))
        self.folder = self.cases / folder
        self.work = work / "work"  # an empty folder, in which commands run
        self.work.mkdir(exist_ok=True)

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1", "CASES": str(self.cases), **more}

    def line(self, command: str, *arguments: str | os.PathLike[str]) -> list[str]:
        """Return the command line of a console command, or of a script given by its path in the checkout."""
        start = ["-m", COMMANDS[command]] if command in COMMANDS else [str(self.tree / command)]
        return [sys.executable, *start, *map(os.fsdecode, arguments)]

    def run(
        self,
        command: str,
        *arguments: str | os.PathLike[str],
        seconds: float = 120,
        stdin: bytes | None = None,
        **variables: str,
    ) -> Ended:
        """Run a command to its end, or kill it after `seconds`; the code is then -9."""
        return self.run_line(self.line(command, *arguments), seconds, stdin, **variables)

    def python(self, text: str, seconds: float = 120, **variables: str) -> Ended:
        return self.run_line([sys.executable, "-c", text], seconds, None, **variables)

    def run_line(self, words: list[str], seconds: float = 120, stdin: bytes | None = None, **variables: str) -> Ended:
        start = time.monotonic()
        with tempfile.TemporaryFile() as output:
            source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
            try:
                environment = self.environment(**variables)
                code = subprocess.run(
                    words,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                    cwd=self.work,
                    env=environment,
                    **source,
                ).returncode
            except subprocess.TimeoutExpired:
                code = -9
            output.seek(0)
            return Ended(code, output.read().decode(errors="replace"), time.monotonic() - start)


Judge = Callable[[Case], Iterable[Finding]]
JUDGES: dict[str, Judge] = {}


def judges(name: str) -> Callable[[Judge], Judge]:
    """Register a judge for a case's folder, such as "training/manifests"; "training/x#part" judges a part of it."""

    def register(judge: Judge) -> Judge:
        JUDGES[name] = judge
        return judge

    return register


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases to look at, or parts of their names (default: all)")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose code runs")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    arguments = parser.parse_args()
    for module in sorted(HERE.glob("cases_*.py")):
        importlib.import_module(f"tests.drills.{module.stem}")
    registry = importlib.import_module("tests.drills.cases").JUDGES
    chosen = [name for name in sorted(registry) if not arguments.names or any(part in name for part in arguments.names)]
    wrong = 0
    for name in chosen:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
            case = Case(arguments.tree.resolve(), arguments.shared.resolve() / "cases", Path(work), name)
            for finding in registry[name](case):
                wrong += not finding.right
                label = f"{name} {finding.label}".strip()
                print(f"{'right' if finding.right else 'WRONG'}  {label}: {finding.seen}", flush=True)
    print(f"{len(chosen)} cases, {wrong} findings wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
