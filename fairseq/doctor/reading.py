"""Read a run's records: from the folder of its checkpoints, or from a log of fairseq's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fairseq.doctor.reading_logs import read_log
from fairseq.doctor.records import Records, Row, Rows
from fairseq.logging.metrics_file import Json, iterate_rows, read_rows

__all__ = ["read", "read_log", "read_run"]

METRICS, RUN, CODES, HYPOTHESES = "metrics.jsonl", "run.jsonl", "codes.jsonl", "hypotheses.jsonl"
LOCK = "run.lock"  # in the folder while the run runs, and after a kill
LOGS = ("hydra_train.log", "train.log")  # what hydra and common.log_file leave in a folder
CHECKPOINTS = "checkpoints"  # the default of checkpoint.save_dir, in hydra's folder of the run

ConfigOf = Callable[[Path], "Mapping[str, Json] | None"]


def read(path: Path, config_of: ConfigOf | None = None) -> Records:
    """Read a run's folder or log; see `read_run` and `read_log`."""
    if path.is_dir():
        return read_run(path, config_of)
    if not path.exists():
        raise ValueError(f"{path} does not exist. Name the folder of a run's checkpoints, or a log of fairseq's.")
    return read_log(path)


def read_run(folder: Path, config_of: ConfigOf | None = None) -> Records:
    """Read a run that has ended, still runs, or was killed: half a line at a file's end is left out.

    Args:
        folder: `checkpoint.save_dir`, or hydra's folder of the run.
        config_of: returns the config in the folder's newest checkpoint, for runs that have no run.jsonl; None if there
            isn't one.
    Raises:
        ValueError: the folder has no records of a run.
        OSError: a file cannot be read.
    """
    found = next((place for place in (folder, folder / CHECKPOINTS) if (place / METRICS).is_file()), None)
    if found is None:
        log = next((folder / name for name in LOGS if (folder / name).is_file()), None)
        if log is not None:
            return read_log(log)
        raise ValueError(
            f"{folder} is not a run's folder: it has none of {METRICS}, {CHECKPOINTS}/{METRICS}, {', '.join(LOGS)}. "
            "Name the run's checkpoint.save_dir, or its log."
        )
    starts = _lines(found / RUN)
    last: Row = starts[-1] if starts else {}
    config = _group(last, "config")
    if not config and config_of is not None:
        config = config_of(found) or {}
    return Records(
        _by_split(iterate_rows(found / METRICS)),
        config,
        _group(last, "environment"),
        _lines(found / CODES),
        _lines(found / HYPOTHESES),
        [update for line in starts if isinstance(update := line["num_updates"], int)],
        is_over=not (found / LOCK).exists(),
        data=_group(last, "data"),
    )


def _lines(path: Path) -> list[dict[str, Json]]:
    """The lines of a file that older runs do not have."""
    return [line for line in read_rows(path) if "num_updates" in line] if path.is_file() else []


def _group(line: Row, name: str) -> Mapping[str, Json]:
    value = line.get(name)
    return value if isinstance(value, dict) else {}


def _by_split(rows: Iterable[Row]) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        if isinstance(row.get("num_updates"), int) and isinstance(split := row.get("split"), str):
            found.setdefault(split, Rows(is_compact=True)).append(row)
    return found
