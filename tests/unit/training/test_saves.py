"""What rank 0 saves when it loses the other processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fairseq import device
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.training.saves import Saves


@pytest.mark.parametrize(("processes", "is_settled", "saved"), [(2, False, 0), (2, True, 1), (1, False, 1)])
def test_an_update_whose_metrics_are_not_exchanged_is_not_saved_alone(
    monkeypatch: pytest.MonkeyPatch, processes: int, is_settled: bool, saved: int
) -> None:
    """A run that resumed from there would not repeat the update's validation."""
    trainer: Any = SimpleNamespace(
        cfg=SimpleNamespace(checkpoint=CheckpointConfig()),
        get_num_updates=lambda: 3,
        is_data_parallel_master=True,
        data_parallel_world_size=processes,
        strategy=SimpleNamespace(holds_all=True),
        device=device.get("cpu"),
    )
    written: list[bool] = []
    monkeypatch.setattr(Saves, "save", lambda *arguments, **options: written.append(True))
    epoch_itr: Any = None
    run = Saves(trainer, epoch_itr)
    run.is_settled = is_settled
    run.save_alone()
    assert len(written) == saved
