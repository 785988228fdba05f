"""Sums and metrics of each corpus: of a batch, of the objectives, and in the log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fairseq.criterions import per_corpus
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.data.audio.corpora import Corpora
from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, ManifestOptions
from fairseq.data.options import BatchLimits
from fairseq.device import get
from fairseq.device.base import Device
from fairseq.logging import metrics
from fairseq.scoring.greedy_scorer import GreedyScorer
from tests.unit.criterions.test_wav2vec_criterion import GivenLogits
from tests.unit.data.small_corpus import make_masks, write_corpus


@pytest.mark.parametrize("pad", [False, True])
def test_batches_say_what_they_have_of_each_corpus(tmp_path: Path, pad: bool) -> None:
    manifests = [
        Manifest(str(write_corpus(tmp_path / name, sizes))) for name, sizes in (("a", [3000, 3300]), ("b", [3600] * 3))
    ]
    dataset = FileAudioDataset(
        JoinedManifest(manifests), 16000, pad=pad, options=ManifestOptions(corpora=Corpora((2, 0), 3))
    )
    dataset.set_masks(make_masks())
    batches = dataset.batches(1, BatchLimits(max_sentences=5, multiple=1))
    batch = dataset.collate_plan(batches.plan(0, 1, 0)._replace(num_valid=4))
    assert "corpora" in batch and "corpus_samples" in batch and "corpus_utterances" in batch
    for row, (index, member) in enumerate(zip(batch["id"].tolist(), batch["corpora"].tolist(), strict=True)):
        assert member == ([0, 0, 0] if row >= 4 else [0, 0, 1] if index < 2 else [1, 0, 0])
    assert sum(batch["corpus_samples"]) == batch["num_samples"] and sum(batch["corpus_utterances"]) == 4
    assert batch["corpus_utterances"][1] == batch["corpus_samples"][1] == 0
    plain = FileAudioDataset(JoinedManifest(manifests), 16000, pad=pad)
    plain.set_masks(make_masks())
    assert "corpora" not in plain.collate_plan(batches.plan(0, 1, 0))


def logged(corpora: tuple[str, ...], *logs: dict[str, Any]) -> dict[str, Any]:
    with metrics.aggregate(new_root=True) as found:
        per_corpus.log(corpora, logs)
    return dict(found.get_smoothed_values())


def test_the_objective_by_corpus() -> None:
    """Corpora of one row each: their losses are those of batches with only that row, up to terms of the whole batch."""
    torch.manual_seed(0)
    logits, weights = torch.randn(3, 4, 5), torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    extra = {"prob_perplexity": torch.tensor(3.0), "num_vars": 12, "features_pen": torch.tensor(0.5)}
    criterion = Wav2vecCriterion(infonce=True, loss_weights=[0.1, 10.0])
    membership = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    sample: Any = {"net_input": {}, "corpora": membership}
    loss, size, log = criterion(GivenLogits(logits, weights, **extra), sample)
    assert torch.allclose(log["corpus_loss"].sum(), loss.detach()) and log["corpus_sample_size"].tolist() == [3, 2, 0]
    values = logged(("one", "two/x", "none"), log)
    for number, name in enumerate(("one", "two_x")):
        rows = slice(number, number + 1)
        own, count, its_log = criterion(GivenLogits(logits[rows], weights[rows], **extra), cast(Any, {"net_input": {}}))
        assert values[f"{name}_loss"] == pytest.approx(own.item() / count.item() / math.log(2), abs=1e-3)
        assert values[f"{name}_accuracy"] == pytest.approx((its_log["correct"] / its_log["count"]).item(), abs=1e-4)
    assert not any(name.startswith("none") for name in values)
    own_log, of_corpora = per_corpus.split([log])
    with metrics.aggregate(new_root=True) as found:
        criterion.reduce_metrics(own_log)
    assert "corpus_loss" not in found and set(of_corpora[0]) == {name for name in log if name.startswith("corpus_")}


def test_an_empty_batch_counts_nowhere() -> None:
    criterion = Wav2vecCriterion(infonce=True)
    sample: Any = {"net_input": {}, "corpora": torch.zeros(2, 2)}
    _, _, log = criterion(GivenLogits(torch.randn(2, 4, 5), torch.zeros(2, 4)), sample)
    assert log["corpus_loss"].tolist() == [0, 0] and logged(("a", "b"), log) == {}


def test_error_rates_by_corpus() -> None:
    scorer = GreedyScorer(lambda units: " ".join(map(str, units)), blank=0, num_symbols=8, num_special=4)
    path, target = torch.tensor([[4, 5], [4, 6], [7, 0]]), torch.tensor([[4, 5], [4, 5], [4, 0]])
    lengths, weights = torch.tensor([2, 2, 1]), torch.tensor([1.0, 1, 1])
    corpora = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    log = scorer.score(path, target, torch.full((3,), 2), lengths, weights, corpora)
    assert log["corpus_c_errors"].tolist() == [1, 1] and log["corpus_c_total"].tolist() == [4, 1]
    assert log["corpus_c_errors"].sum() == log["c_errors"] and log["corpus_w_total"].sum() == log["w_total"]
    sizes = per_corpus.sums(corpora, {"sample_size": lengths})
    values = logged(("german", "french"), {**log, **sizes})
    assert (values["german_uer"], values["german_wer"], values["french_uer"]) == (25, 25, 100)


def test_losses_of_rows_add_up_to_the_ctc_loss() -> None:
    torch.manual_seed(0)
    arguments: tuple[Tensor, ...] = (
        torch.randn(6, 3, 5).log_softmax(-1),
        torch.randint(1, 5, (3, 2)),
        torch.tensor([6, 5, 6]),
        torch.tensor([2, 1, 2]),
        torch.tensor([1.0, 1, 0]),
    )
    device = cast(Device, get("cpu"))
    loss, rows = device.ctc_loss(*arguments)
    assert rows is not None and not rows.requires_grad
    assert torch.equal(rows.sum(), loss) and rows[2] == 0 and (rows[:2] > 0).all()


def test_hours_and_utterances_are_sums_over_the_epoch() -> None:
    sample: Any = {"corpus_utterances": [2, 1], "corpus_samples": [32000, 16000]}
    with metrics.aggregate(new_root=True) as found:
        for _ in range(2):
            per_corpus.log_counted(("a", "b"), per_corpus.counted(sample), 16000)
        per_corpus.log_counted((), {"num_updates": 1}, 16000)
    values = found.get_smoothed_values()
    assert (values["a_utterances"], values["b_utterances"]) == (4, 2)
    assert values["a_hours"] == pytest.approx(4 / 3600, abs=1e-5)
