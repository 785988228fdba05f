"""Records with made-up columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairseq.doctor.records import INTERVAL, Records, Rows


def made(
    every: int,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    starts: Sequence[int] = (),
    **columns: Any,
) -> Records:
    """Make a run's records with a row every so many updates; None: the row lacks the value.

    Args:
        columns: sequences of the same length, by name.
    """
    count = len(next(iter(columns.values())))
    plain = {
        name: list(column.tolist() if isinstance(column, np.ndarray) else column) for name, column in columns.items()
    }
    rows = Rows(
        {
            "num_updates": every * (i + 1),
            "epoch": 1,
            **{name: column[i] for name, column in plain.items() if column[i] is not None},
        }
        for i in range(count)
    )
    return Records({INTERVAL: rows}, config, environment, starts=starts)
