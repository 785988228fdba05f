"""The classification criterion: its loss, class weights, and metrics that are those of all utterances together."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq.criterions.classification import ClassificationCriterion, ClassificationCriterionConfig
from fairseq.data.dictionary import Dictionary
from fairseq.logging import metrics
from fairseq.scoring.classifiers import equal_error_rate, log_odds
from tests.host_reads import HostReads


class Logits(nn.Module):
    """A model whose output is its input."""

    def forward(self, source: Tensor) -> Tensor:
        return source

    def get_normalized_probs(self, net_output: Tensor, log_probs: bool) -> Tensor:
        return net_output.log_softmax(dim=-1)


def make(**settings: Any) -> ClassificationCriterion:
    dictionary = Dictionary(add_special_symbols=False)
    for name, count in (("a", 10), ("b", 20), ("c", 30)):
        dictionary.add_symbol(name, count)
    cfg = ClassificationCriterionConfig(**settings)
    return ClassificationCriterion(cfg, SimpleNamespace(target_dictionary=dictionary))


def batch(rows: int, filler: int = 0, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(rows)
    weights[rows - filler :] = 0
    source = torch.randn(rows, 3, generator=generator)
    target = torch.randint(3, (rows, 1), generator=generator)
    return {"net_input": {"source": source}, "target": target, "target_weights": weights}


def test_the_loss_is_cross_entropy_without_filler() -> None:
    sample = batch(8, filler=3)
    loss, size, log = make()(Logits(), sample)
    logits, target = sample["net_input"]["source"][:5], sample["target"][:5, 0]
    assert torch.allclose(loss, F.cross_entropy(logits, target, reduction="sum")) and size == 5
    assert float(log["class_actual"].sum()) == float(log["class_predicted"].sum()) == 5
    assert float(log["class_correct"].sum()) == int((logits.argmax(dim=1) == target).sum())


@pytest.mark.parametrize(
    "settings, weights",
    [
        ({"class_weights": "balanced"}, [2, 1, 2 / 3]),  # mean 1 over the 60 training utterances
        ({"class_weights": "list", "class_weight_list": [0.5, 3, 1]}, [0.5, 3, 1]),
    ],
)
def test_class_weights(settings: dict[str, Any], weights: list[float]) -> None:
    sample = batch(8)
    loss, size, _ = make(**settings)(Logits(), sample)
    logits, target = sample["net_input"]["source"], sample["target"][:, 0]
    assert torch.allclose(loss, F.cross_entropy(logits, target, torch.tensor(weights), reduction="sum")) and size == 8


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"class_weights": "list", "class_weight_list": [1.0, 2.0]}, "2 weights, but there are 3 classes: a, b, c"),
        ({"class_weights": "list"}, "class_weight_list is not set"),
        ({"class_weight_list": [1.0]}, "class_weight_list is set"),
        ({"class_weights": "list", "class_weight_list": [1.0, -1.0, 1.0]}, "at least 0"),
    ],
)
def test_weights_that_cannot_be_meant(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        make(**settings)
    assert told in str(error.value)


def test_metrics_of_batches_are_those_of_all_utterances() -> None:
    criterion, model, samples = make(), Logits().eval(), [batch(40, 8, seed) for seed in range(5)]
    with torch.no_grad(), HostReads() as reads:
        logs = [criterion(model, sample)[2] for sample in samples]
    assert reads.found == [] and reads.operators > 50
    with metrics.aggregate(new_root=True) as aggregator:
        criterion.reduce_metrics(logs)
    found = aggregator.get_smoothed_values()
    logits = torch.cat([sample["net_input"]["source"][:32] for sample in samples])
    target = torch.cat([sample["target"][:32, 0] for sample in samples])
    predicted = logits.argmax(dim=1)
    assert found["accuracy"] == pytest.approx(float((predicted == target).float().mean()), abs=1e-5)
    f1 = [
        2 * int(((predicted == k) & (target == k)).sum()) / int((predicted == k).sum() + (target == k).sum())
        for k in range(3)
    ]
    assert found["f1"] == pytest.approx(np.mean(f1), abs=1e-5)
    odds = log_odds(logits.log_softmax(dim=-1)).numpy()
    own = (target[:, None] == torch.arange(3)).numpy()
    assert found["eer"] == pytest.approx(equal_error_rate(odds.ravel(), own.ravel()), abs=0.01)
    loss = F.cross_entropy(logits, target) / math.log(2)
    assert found["loss"] == pytest.approx(float(loss), abs=1e-3)
