"""Compare runs: where their configs differ, beside where their curves do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fairseq.dataclass.utils import config_diff
from fairseq.doctor.bands.band import WINDOW, curve
from fairseq.doctor.records import INTERVAL, Records, Rows
from fairseq.logging.metrics_file import Json

METRICS = ("accuracy", "loss_0", "wer", "uer", "loss", "code_perplexity", "gnorm")
POINTS = 4  # common updates that are compared
SHOWN = 4  # curves
# keys that say where a run is kept and how it is shown
ELSEWHERE = (
    "checkpoint.save_dir",
    "common.log_file",
    "common.log_format",
    "common.no_progress_bar",
    "common.tensorboard_logdir",
    "common_eval",
    "job_logging_cfg",
)

Run = tuple[str, Records]


class Difference(NamedTuple):
    """A key of the config and its value in each run; None: the run's config does not have it."""

    key: str
    values: list[Json]


class Curve(NamedTuple):
    """One metric of all runs.

    Args:
        split: a validation set, or INTERVAL: means over a twentieth of the common updates.
        updates: common ones, N.
        values: runs x N; NaN where a run has none.
        last: the last update and value of each run.
    """

    metric: str
    split: str
    updates: list[int]
    values: list[list[float]]
    last: list[tuple[int, float]]


class Comparison(NamedTuple):
    """Several runs side by side.

    Args:
        without_config: names of runs whose config is not known; they are not among the differences.
    """

    names: list[str]
    without_config: list[str]
    differences: list[Difference]
    curves: list[Curve]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare two or more runs."""
    with_config = [records for _, records in runs if records.config]
    keys: dict[str, None] = {}
    for records in with_config[1:]:
        for key, _, _ in config_diff(dict(with_config[0].config), dict(records.config)):
            if not key.startswith(ELSEWHERE):
                keys[key] = None
    differences = [Difference(key, [records.setting(key) for _, records in runs]) for key in sorted(keys)]
    curves = [found for metric in METRICS if (found := _curve(runs, metric)) is not None]
    names = [name for name, _ in runs]
    return Comparison(names, [name for name, records in runs if not records.config], differences, curves[:SHOWN])


def _curve(runs: Sequence[Run], metric: str) -> Curve | None:
    """The curve of a metric that all runs have, from a validation set of all of them if there is one."""
    sets = [name for name in runs[0][1].validation if all(_has(records.rows(name), metric) for _, records in runs)]
    split = sets[0] if sets else INTERVAL
    parts = [records.training if split == INTERVAL else records.rows(split) for _, records in runs]
    if not all(_has(rows, metric) for rows in parts):
        return None
    first = max(_updates(rows, metric)[0] for rows in parts)
    last = min(_updates(rows, metric)[-1] for rows in parts)
    window = WINDOW * (last - first) if split == INTERVAL else 0.0
    points = [curve(rows, metric, max(window, 0.0)) for rows in parts]
    updates = np.unique(np.linspace(first, last, POINTS + 1).round().astype(int)[1:]) if last > first else []
    values = [[float(np.interp(at, *line)) for at in updates] for line in points]
    return Curve(
        metric,
        split,
        [int(at) for at in updates],
        values,
        [(int(updates_[-1]), float(line[-1])) for updates_, line in points],
    )


def _has(rows: Rows, metric: str) -> bool:
    return len(rows) > 0 and rows.has(metric)


def _updates(rows: Rows, metric: str) -> np.ndarray:
    return rows.updates[np.isfinite(rows.values(metric))]
