"""An update reads nothing back from the device: what it computed is fetched at the log interval, in one read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq.logging import metrics
from tests.integration.conftest import make_trainer

READS = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.unique",
    "aten.equal",
    "aten.is_nonzero",
    "aten.repeat_interleave",
}


class HostReads(TorchDispatchMode):
    """Notes every operator that makes the host wait for a value, or gives a shape that depends on one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operators += 1
        name = str(func.overloadpacket)
        by_mask = name in ("aten.index", "aten.index_put", "aten.index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "model", [{}, {"codebook_negatives": 5, "cross_sample_negatives": 5}, {"quantize_targets": False}]
)
def test_an_update_reads_nothing_and_the_log_reads_once(corpus: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    trainer, updates = make_trainer(corpus, tmp_path, **model)
    if not model.get("quantize_targets", True):
        trainer.criterion.loss_weights = [10]
    assert not trainer.unwrapped_model.looks_for_padding, "validation would wait for each batch's padding mask"
    batches = updates.next_epoch_itr()
    trainer.train_step(next(batches))  # the first one makes the optimizer's state
    second, third = next(batches), next(batches)  # made on the host, before anything is on a device
    with HostReads() as reads:
        trainer.train_step(second)
        trainer.train_step(third)
    assert reads.operators > 500 and reads.found == []
    with metrics.aggregate(new_root=True) as aggregator, HostReads() as reads:
        trainer.flush_statistics()
    logged = aggregator.get_smoothed_values()
    assert logged["loss"] > 0 and logged["gnorm"] > 0 and logged["bsz"] > 0
    assert len(reads.found) <= 1


def test_the_mode_notices_reads() -> None:
    x = torch.ones(3)
    with HostReads() as reads:
        x.sum().item()
        x[x > 0]
        bool(x.any())
    assert len(reads.found) == 3
