"""fairseq's import path for `Trainer`, which is defined in `fairseq.training.trainer`."""

from __future__ import annotations

from fairseq.training.stopping import StopWish
from fairseq.training.trainer import Trainer, logger

__all__ = ["StopWish", "Trainer", "logger"]
