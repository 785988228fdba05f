"""A run's own records, by column: metrics, config, environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fairseq.logging.metrics_file import Json

# splits of rows that are not a validation's; as in fairseq.logging.sinks
INTERVAL = "train_inner"
EPOCH = "train"

Row = Mapping[str, object]
_NEWEST = 1000  # rows that compact Rows hold as they came


class Rows:
    """The rows of one split, in the order of updates, as columns that are made when they are asked for.

    Args:
        is_compact: keep the numbers only, a tenth of the memory: what a run needs over its millions of updates.
            `rows` is then the newest ones, at least one.
    """

    def __init__(self, rows: Iterable[Row] = (), is_compact: bool = False) -> None:
        self._rows: list[Row] = []
        self._dropped = 0  # rows that are only in the columns
        self._columns: dict[str, _Column] = {}
        self._is_compact = is_compact
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add a row, with `num_updates` and `epoch`."""
        self._rows.append(row)
        if self._is_compact and len(self._rows) >= _NEWEST:
            for name in {*self._columns, *(name for row in self._rows for name in row)}:
                self.values(name)
            self._dropped += len(self._rows) - 1
            self._rows = self._rows[-1:]

    def __len__(self) -> int:
        return self._dropped + len(self._rows)

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    @property
    def updates(self) -> np.ndarray:
        """The update after which each row was written, N, int64."""
        return self.values("num_updates").astype(np.int64)

    def values(self, name: str) -> np.ndarray:
        """Return a column, N, float64, read-only; NaN where a row has no number of this name.

        The texts nan, inf and -inf, by which metrics.jsonl says that a number is not finite, are numbers.
        """
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _Column(self._dropped)
        column.extend(_numbers([row.get(name) for row in self._rows[column.size - self._dropped :]]))
        return column.values()

    def has(self, name: str) -> bool:
        """Say whether any row has a number of this name."""
        return bool(np.isfinite(self.values(name)).any())


class _Column:
    """A growing array.

    Args:
        size: values to begin with, all NaN.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._room = np.full(max(size, 16), np.nan)

    def extend(self, values: np.ndarray) -> None:
        size = self.size + len(values)
        if size > len(self._room):
            self._room = np.concatenate([self._room[: self.size], np.empty(2 * size - self.size)])
        self._room[self.size : size] = values
        self.size = size

    def values(self) -> np.ndarray:
        view = self._room[: self.size]
        view.flags.writeable = False
        return view


def _numbers(values: Sequence[object]) -> np.ndarray:
    """The numbers among the values, float64; NaN for another value."""
    try:
        # six times as fast as one by one; None is NaN, and texts are parsed as float does
        found = np.array(values, np.float64)
    except (ValueError, TypeError):
        found = np.empty(())
    return found if found.ndim == 1 else np.array([_number(value) for value in values], np.float64)


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
        data: utterances, hours and the like by split; see `run.jsonl`.
        codes: rows of codes.jsonl.
        hypotheses: rows of hypotheses.jsonl.
        starts: updates from which the run was started or resumed.
        is_over: the run has ended, other than by a kill.
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
        data: Mapping[str, Json] | None = None,
    ) -> None:
        self._rows = dict(rows or {})
        self.config = config or {}
        self.environment = environment or {}
        self.data = data or {}
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
    def covered(self) -> int:
        """How many updates the training rows cover; 0 if there are fewer than two rows."""
        updates = self.training.updates
        if len(updates) < 2:
            return 0
        before = max(0, 2 * int(updates[0]) - int(updates[1]))  # the first row covers as many updates as the second
        return int(updates[-1]) - before

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
