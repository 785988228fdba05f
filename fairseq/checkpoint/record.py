"""A run's record of its checkpoints: the best value so far, the patience left, and the file it started from."""

from __future__ import annotations

import math
from typing import Any, Optional


class RunRecord:
    """The record that the trainer keeps as `run_record`.

    It is saved in `extra_state`: "best" where fairseq has it, the rest under "run_record".

    Args:
        maximize: larger values are better (`checkpoint.maximize_best_checkpoint_metric`).
    """

    def __init__(self, maximize: bool = False) -> None:
        self.maximize = maximize
        self.clear()

    def clear(self) -> None:
        """Reset everything, before a checkpoint is loaded."""
        self.best: Optional[float] = None  # over all validations; patience refers to it
        self.saved_best: Optional[float] = None  # value of checkpoint_best.pt; differs if writing the best one failed
        self.validations_without_better = 0
        # the checkpoint that the first process of this run loaded: of another run, or an older one of this run
        self.started_from: Optional[str] = None
        # updates of the pre-training that checkpoint.continue_pretraining continues; not in num_updates
        self.updates_before = 0
        self.validation_due = False  # a signal or an error came before the validation that was due at this update
        self.files: list[str] = []  # names under which this save was written, in order
        # optimization.update_freq of the command, if distributed_training.keep_update_size changed it
        self.configured_update_freq: Optional[list[int]] = None
        self.corpus_shares: dict[str, float] = {}  # of the audio of an epoch, with several corpora; set by each process
        self.continues = False  # this process resumed from the folder's last checkpoint; not saved
        self._observed_at: Optional[int] = None

    @staticmethod
    def updates_before_in(state: dict[str, Any]) -> int:
        """Read a checkpoint's `updates_before`; 0 if it has none."""
        return ((state.get("extra_state") or {}).get("run_record") or {}).get("updates_before", 0)

    def observe(self, value: float, num_updates: int) -> None:
        """Record a validation's value. NaN is never better; a second call for the same update has no effect."""
        if num_updates == self._observed_at:
            return
        self._observed_at = num_updates
        if self._is_better(value, self.best):
            self.best = float(value)
            self.validations_without_better = 0
        else:
            self.validations_without_better += 1

    def is_best(self, value: Optional[float]) -> bool:
        """Whether no saved value is better, so that this save becomes checkpoint_best.pt."""
        return value is not None and (value == self.saved_best or self._is_better(value, self.saved_best))

    def out_of_patience(self, patience: int) -> bool:
        """Whether `patience` validations in a row brought no better value (0 or less: never)."""
        return 0 < patience <= self.validations_without_better

    def _is_better(self, value: float, than: Optional[float]) -> bool:
        if math.isnan(value):
            return False
        return than is None or (value > than if self.maximize else value < than)

    def state_dict(self) -> dict[str, Any]:
        """Return the entries for `extra_state`."""
        own = {
            "validations_without_better": self.validations_without_better,
            "observed_at": self._observed_at,
            "started_from": self.started_from,
            "updates_before": self.updates_before,
            "validation_due": self.validation_due,
            "saved_best": self.saved_best,
            "files": list(self.files),
            "configured_update_freq": self.configured_update_freq,
            **({"corpus_shares": dict(self.corpus_shares)} if self.corpus_shares else {}),
        }
        return {**({} if self.best is None else {"best": self.best}), "run_record": own}

    def load_state_dict(self, extra_state: dict[str, Any], reset_best: bool = False) -> None:
        """Load a checkpoint's `extra_state`; fairseq's has only "best"."""
        own = extra_state.get("run_record", {})
        self.started_from = own.get("started_from")
        self.updates_before = own.get("updates_before", 0)
        if not reset_best:
            self.best = extra_state.get("best")
            self.saved_best = own.get("saved_best", self.best)
            self.files = list(own.get("files", []))
            self.validations_without_better = own.get("validations_without_better", 0)
            self.validation_due = own.get("validation_due", False)
            self._observed_at = own.get("observed_at")
