"""A run's own records, by column: metrics, config, environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fairseq.logging.metrics_file import Json

# splits of rows that are not a validation's; as in fairseq.logging.sinks
INTERVAL = "train_inner"
EPOCH = "train"

Row = Mapping[str, object]


class Rows:
    """The rows of one split, in the order of updates, as columns that are made when they are asked for."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: list[Row] = []
        self._columns: dict[str, list[float]] = {}
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add a row, with `num_updates` and `epoch`."""
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    @property
    def updates(self) -> np.ndarray:
        """The update after which each row was written, N, int64."""
        return self.values("num_updates").astype(np.int64)

    def values(self, name: str) -> np.ndarray:
        """Return a column, N, float64; NaN where a row has no number of this name.

        The texts nan, inf and -inf, by which metrics.jsonl says that a number is not finite, are numbers.
        """
        column = self._columns.setdefault(name, [])
        column.extend(_number(row.get(name)) for row in self._rows[len(column) :])
        return np.asarray(column, dtype=np.float64)

    def has(self, name: str) -> bool:
        """Say whether any row has a number of this name."""
        return bool(np.isfinite(self.values(name)).any())


def _number(value: object) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return float("nan")


class Records:
    """The records of one run, complete or so far.

    Args:
        rows: rows by split: INTERVAL, EPOCH, or the name of a validation set.
        config: the run's config as plain values, group by group; empty: not known.
        environment: processor, devices, versions, numbers of processes; see `run.jsonl`.
        codes: rows of codes.jsonl.
        hypotheses: rows of hypotheses.jsonl.
        starts: updates from which the run was started or resumed.
        is_over: the run has ended.
    """

    def __init__(
        self,
        rows: Mapping[str, Rows] | None = None,
        config: Mapping[str, Json] | None = None,
        environment: Mapping[str, Json] | None = None,
        codes: Sequence[Row] = (),
        hypotheses: Sequence[Row] = (),
        starts: Sequence[int] = (),
        is_over: bool = False,
    ) -> None:
        self._rows = dict(rows or {})
        self.config = config or {}
        self.environment = environment or {}
        self.codes = list(codes)
        self.hypotheses = list(hypotheses)
        self.starts = list(starts)
        self.is_over = is_over

    def rows(self, split: str) -> Rows:
        """Return the rows of a split; empty ones if there are none."""
        return self._rows.setdefault(split, Rows())

    @property
    def training(self) -> Rows:
        """The rows of log intervals; of epochs, if the run logged no intervals."""
        return self.rows(INTERVAL) if len(self.rows(INTERVAL)) else self.rows(EPOCH)

    @property
    def validation(self) -> dict[str, Rows]:
        """The rows of each validation set."""
        return {name: rows for name, rows in self._rows.items() if name not in (INTERVAL, EPOCH) and len(rows)}

    def setting(self, key: str, default: Json = None) -> Json:
        """Return a value of the config by its key, such as `optimization.lr`; the default if it is not known."""
        value: Json = dict(self.config)
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return default if value is None else value
