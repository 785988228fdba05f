"""An update reads nothing back from the device: what it computed is fetched at the log interval, in one read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.criterions.wav2vec_criterion import CODE_COUNTS
from fairseq.logging import metrics
from fairseq.training.trainer import Trainer
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
    if trainer.unwrapped_model.quantizer is None:
        assert CODE_COUNTS not in aggregator
    else:  # each masked frame of the three updates counts once in each of the two groups
        counts, frames = aggregator[CODE_COUNTS].sum, round(aggregator["ntokens"].sum)
        assert counts.view(2, -1).sum(dim=1).tolist() == [frames, frames]


def flushed(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Flush the statistics, and check that this is a single read; returns what was logged."""
    fetched, tolist = [], torch.Tensor.tolist  # on the CPU no operator that the mode would see
    with monkeypatch.context() as patch, metrics.aggregate(new_root=True) as aggregator:
        patch.setattr(torch.Tensor, "tolist", lambda tensor: fetched.append(tensor.shape) or tolist(tensor))
        trainer.flush_statistics()
    assert len(fetched) == 1
    return dict(aggregator.get_smoothed_values())


def test_metrics_of_corpora_need_no_further_read(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, *lines = (corpus / "train.tsv").read_text().splitlines()
    for name, part in (("few", lines[:6]), ("many", lines[6:])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.tsv").write_text("\n".join([root, *part]) + "\n")
    found: list[dict[str, Any]] = []
    for folder, keys in ((corpus, None), (tmp_path, "few,many")):
        torch.manual_seed(1)
        trainer, updates = make_trainer(folder, tmp_path, {"multi_corpus_keys": keys})
        samples = list(updates.next_epoch_itr())
        trainer.train_step(samples[0])
        with HostReads() as reads:
            trainer.train_step(samples[1])
        assert reads.found == []
        found.append(flushed(trainer, monkeypatch))
    plain, by_corpus = found
    assert plain["loss"] == by_corpus["loss"] and plain["gnorm"] == by_corpus["gnorm"]  # the same training
    further = {name for name in by_corpus if name not in plain}
    named = ("loss", "accuracy", "utterances", "hours")
    assert further == {f"{corpus}_{name}" for corpus in ("few", "many") for name in named}
    seconds = 3600 * (by_corpus["few_hours"] + by_corpus["many_hours"])
    assert seconds == pytest.approx(plain["audio_s_per_update"] * 2, abs=0.2)


def test_the_mode_notices_reads() -> None:
    x = torch.ones(3)
    with HostReads() as reads:
        x.sum().item()
        x[x > 0]
        bool(x.any())
    assert len(reads.found) == 3
