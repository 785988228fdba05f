"""An update reads nothing back from the device: what it computed is fetched at the log interval, in one read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.logging import metrics
from tests.host_reads import HostReads
from tests.integration.conftest import make_trainer


@pytest.mark.parametrize(
    "model", [{}, {"codebook_negatives": 5, "cross_sample_negatives": 5}, {"quantize_targets": False}]
)
def test_an_update_reads_nothing_and_the_log_reads_once(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
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
    fetched, tolist = [], torch.Tensor.tolist  # on the CPU no operator that the mode would see
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: fetched.append(tensor.shape) or tolist(tensor))
    with metrics.aggregate(new_root=True) as aggregator, HostReads() as reads:
        trainer.flush_statistics()
    logged = aggregator.get_smoothed_values()
    assert logged["loss"] > 0 and logged["gnorm"] > 0 and logged["bsz"] > 0
    assert reads.found == [] and len(fetched) == 1


def test_the_mode_notices_reads() -> None:
    x = torch.ones(3)
    with HostReads() as reads:
        x.sum().item()
        x[x > 0]
        bool(x.any())
    assert len(reads.found) == 3
