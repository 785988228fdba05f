"""What a run remembers about its checkpoints: the best value so far, the patience left, and which file it began
from.
"""

from __future__ import annotations

import math
from typing import Any, Optional


class RunRecord:
    """Kept by the trainer as `run_record` and saved in `extra_state` ("best" as fairseq has it, the rest under
    "run_record").

    Args:
        maximize: larger values are better (`checkpoint.maximize_best_checkpoint_metric`).
    """

    def __init__(self, maximize: bool = False) -> None:
        self.maximize = maximize
        self.clear()

    def clear(self) -> None:
        """Forget everything: a run begins, and what it continues is not read yet."""
        self.best: Optional[float] = None  # of all validations; patience is counted from it
        self.saved_best: Optional[float] = None  # of checkpoint_best.pt: another one where the disk refused the best
        self.validations_without_better = 0
        # checkpoint of another run (or an older one of this) that the first life loaded
        self.started_from: Optional[str] = None
        # of the pre-training that this run continues (checkpoint.continue_pretraining); not in num_updates
        self.updates_before = 0
        self.validation_due = False  # it was due at this update, and a signal or an error came before it
        self.files: list[str] = []  # names that the save with this record was written under, the first one first
        self.continues = False  # this life goes on where the folder's last checkpoint ended; not saved
        self._observed_at: Optional[int] = None

    @staticmethod
    def updates_before_in(state: dict[str, Any]) -> int:
        """Updates before its own that a checkpoint knows of."""
        return ((state.get("extra_state") or {}).get("run_record") or {}).get("updates_before", 0)

    def observe(self, value: float, num_updates: int) -> None:
        """Note a validation's value; a second call for the same update changes nothing. A value that is not a
        number never is better.
        """
        if num_updates == self._observed_at:
            return
        self._observed_at = num_updates
        if self._is_better(value, self.best):
            self.best = float(value)
            self.validations_without_better = 0
        else:
            self.validations_without_better += 1

    def is_best(self, value: Optional[float]) -> bool:
        """Whether no saved value was better: checkpoint_best.pt is then this one."""
        return value is not None and (value == self.saved_best or self._is_better(value, self.saved_best))

    def out_of_patience(self, patience: int) -> bool:
        """Whether `patience` validations in a row brought nothing better (0 or less: endless patience)."""
        return 0 < patience <= self.validations_without_better

    def _is_better(self, value: float, than: Optional[float]) -> bool:
        if math.isnan(value):
            return False
        return than is None or (value > than if self.maximize else value < than)

    def state_dict(self) -> dict[str, Any]:
        """Entries for `extra_state`."""
        own = {
            "validations_without_better": self.validations_without_better,
            "observed_at": self._observed_at,
            "started_from": self.started_from,
            "updates_before": self.updates_before,
            "validation_due": self.validation_due,
            "saved_best": self.saved_best,
            "files": list(self.files),
        }
        return {**({} if self.best is None else {"best": self.best}), "run_record": own}

    def load_state_dict(self, extra_state: dict[str, Any], reset_best: bool = False) -> None:
        """Take over a checkpoint's `extra_state`, fairseq's too (which has "best" alone)."""
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
