"""Further validation metrics of a run, measured by a package of a higher floor: see `fairseq_cli.train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fairseq.training.trainer import Trainer


class Measure(Protocol):
    """Something that a run measures at each validation, besides the criterion's metrics."""

    def __call__(self, trainer: Trainer) -> Mapping[str, float]:
        """Return values by the metric's name, the same on every process; called on all of them.

        It must not change the model, nor draw from random generators that the run uses.
        """
        ...
