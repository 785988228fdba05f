"""fairseq's import path of the `Trainer`, which lives in `fairseq.training.trainer`."""

from __future__ import annotations

from fairseq.training.trainer import MOST_NORMS, StopWish, Trainer, logger

__all__ = ["MOST_NORMS", "StopWish", "Trainer", "logger"]
