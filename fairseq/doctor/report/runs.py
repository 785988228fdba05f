"""The runs of a report: their names, records, findings, and what is expected of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.doctor import causes as causes  # registers them
from fairseq.doctor.bands import Band, band_of
from fairseq.doctor.findings import Finding, examine
from fairseq.doctor.reading import ConfigOf, read
from fairseq.doctor.records import EPOCH, INTERVAL, Records, Rows
from fairseq.pages.curves import Curve

TRAINING = "training"  # the name of a single run's training rows


@dataclass(frozen=True)
class Run:
    """A run of the report.

    Args:
        name: what the page calls it.
        findings: the most severe first.
        band: the reference curve of its config, if there is one.
    """

    name: str
    records: Records
    findings: Sequence[Finding]
    band: Band | None = None

    @property
    def last_update(self) -> int:
        return max((int(rows.updates[-1]) for rows in self._sets() if len(rows)), default=0)

    @property
    def last_epoch(self) -> int:
        epochs = [rows.values("epoch") for rows in self._sets() if len(rows)]
        return int(max((np.nanmax(epoch) for epoch in epochs if np.isfinite(epoch).any()), default=0))

    def _sets(self) -> list[Rows]:
        return [self.records.training, *self.records.validation.values()]

    def curves(self, column: str) -> dict[str, Curve]:
        """Return a column's curves by the name of the rows: TRAINING, and validation sets; only those with values."""
        sets = {TRAINING: self.records.training, **self.records.validation}
        return {name: curve_of(rows, column) for name, rows in sets.items() if rows.has(column)}

    def band_split(self) -> str:
        """Return the name, among those of `curves`, of the rows that the band is compared with."""
        if self.band is None:
            return ""
        compared = self.band.rows(self.records)
        return next((name for name, rows in self.records.validation.items() if rows is compared), TRAINING)


def curve_of(rows: Rows, column: str) -> Curve:
    """Return a column over updates; of several rows for one update, the last."""
    updates, values = rows.updates, rows.values(column)
    if len(updates) > 1 and not (np.diff(updates) > 0).all():
        updates, last = np.unique(updates[::-1], return_index=True)
        values = values[::-1][last]
    return Curve(updates, np.where(np.isfinite(values), values, np.nan))


def is_training(split: str) -> bool:
    return split in (INTERVAL, EPOCH)


def make_run(name: str, records: Records) -> Run:
    return Run(name, records, examine(records), band_of(records.config, records.data))


def read_runs(paths: Sequence[Path], config_of: ConfigOf | None = None) -> list[Run]:
    """Read the runs in these folders or log files.

    Args:
        config_of: see `read_run`.
    Raises:
        ValueError: there are no records of a run; names the path.
        OSError: a file cannot be read.
    """
    return [make_run(name, read(path, config_of)) for name, path in zip(names_of(paths), paths, strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name each path by the part that tells it from the others: the last folder, where that is enough."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    for parts in range(1, max((len(path.parts) for path in absolute), default=1) + 1):
        names = ["/".join(path.parts[-parts:]) for path in absolute]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(absolute, start=1)]
