"""Rows of a run's metrics as trackers take them: numbers by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fairseq.logging.metrics_file import Json, json_value, read_rows

NOT_FINITE = ("nan", "inf", "-inf")  # how metrics.jsonl writes them
PLACE = ("split", "num_updates", "epoch")

Place = tuple[str, int]  # split and update of a row; a run writes each of them once


class Row(NamedTuple):
    """One row of metrics.jsonl, without what is not a number."""

    split: str
    update: int
    epoch: int
    values: Mapping[str, float]

    @property
    def place(self) -> Place:
        return self.split, self.update

    @property
    def named(self) -> Iterator[tuple[str, float]]:
        """The values by the names that fairseq gives them in trackers, such as train_inner/loss."""
        return ((f"{self.split}/{key}", value) for key, value in self.values.items())


def row_of(split: str, update: int, epoch: int, stats: Mapping[str, object]) -> Row:
    """Convert what a sink is given; see `fairseq.logging.sinks.Sink`."""
    plain = {key: json_value(value) for key, value in stats.items() if key not in PLACE}
    numbers = {key: float(value) for key, value in plain.items() if _is_number(value)}  # type: ignore[arg-type]
    return Row(split, update, epoch, numbers)


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) or value in NOT_FINITE


def rows_of_file(path: Path) -> list[Row]:
    """Read the rows of a metrics file; none where there is no file."""
    try:
        rows = read_rows(path)
    except FileNotFoundError:
        return []
    return [
        row_of(str(row["split"]), int(row["num_updates"]), int(row["epoch"]), row) for row in rows if _is_whole(row)
    ]


def _is_whole(row: Mapping[str, object]) -> bool:
    return isinstance(row.get("num_updates"), int) and isinstance(row.get("epoch"), int) and "split" in row


def text_of(update: int, finding: Mapping[str, Json]) -> str:
    """Write a finding of the doctor as one paragraph: update, severity, title, evidence, what to change."""
    evidence = finding.get("evidence")
    sentences = [
        finding.get("title"),
        *(evidence if isinstance(evidence, (list, tuple)) else []),
        finding.get("change"),
    ]
    text = " ".join(str(sentence) for sentence in sentences if sentence)
    return f"update {update:,}, {finding.get('severity', 'note')}: {text}"
