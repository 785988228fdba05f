"""The files in which a run keeps what its rows of metrics do not hold, next to `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from fairseq.logging.metrics_file import MetricsFile, read_rows

RUN = "run.jsonl"  # config, environment and data at each start or resume
CODES = "codes.jsonl"  # how often each codeword was used
HYPOTHESES = "hypotheses.jsonl"  # what the model recognises in a few utterances
NAMES = (RUN, CODES, HYPOTHESES)
RECORDS = ("metrics.jsonl", *NAMES, "findings.jsonl")  # all that a resumed run continues


class RunFiles:
    """JSON lines, each with `num_updates`, which a run that resumes continues. See `MetricsFile` for what can fail.

    Args:
        folder: `checkpoint.save_dir`.
        update, continues, again: see `fairseq.logging.sinks.Start`: lines that the run will write again are dropped.
    """

    def __init__(self, folder: Path, update: int, continues: bool = True, again: Container[str] = ()) -> None:
        self._files = {name: MetricsFile(folder / name) for name in NAMES}
        for name, file in self._files.items():
            # another run's start at update 0 must not stay; lines of this file have no split
            file.rewind(update, continues, again=("",) if name == RUN and not continues else again)

    def append(self, name: str, line: Mapping[str, object]) -> None:
        """Add a line to the file of this name."""
        self._files[name].append(line)

    def last(self, name: str, split: str) -> dict[str, Any] | None:
        """Read the last line of a split; None if there isn't one, or the file cannot be read."""
        try:
            lines = read_rows(self._files[name].path, split)
        except OSError:
            return None
        return lines[-1] if lines else None
