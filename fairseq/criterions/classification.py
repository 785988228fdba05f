"""Cross-entropy over classes, and accuracy, F1 and equal error rate in validation. Letters: B rows, K classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.criterions import per_corpus, register_criterion
from fairseq.criterions.fairseq_criterion import FairseqCriterion, unwrapped
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass, Finding, wrong
from fairseq.dataclass.checks import refuse
from fairseq.logging import metrics
from fairseq.logging.meters import MetersDict
from fairseq.scoring.classifiers import (
    LARGEST_LOG_ODDS,
    equal_error_rate_of_counts,
    log_odds,
    macro_f1,
    trial_classes,
)
from fairseq.scoring.greedy_scorer import Rate, summed

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
CLASS_WEIGHT_CHOICES = ChoiceEnum(["none", "balanced", "list"])
BINS = 800  # of log-odds in validation; each is 0.05 wide


@dataclass
class ClassificationCriterionConfig(FairseqDataclass):
    class_weights: CLASS_WEIGHT_CHOICES = field(
        default="none",
        metadata={
            "help": "factor on each utterance's loss by its class: none, balanced (inverse to the class's number of "
            "training utterances, with mean 1 over these), or list (class_weight_list)"
        },
    )
    class_weight_list: Optional[list[float]] = field(
        default=None,
        metadata={"help": "for class_weights=list: one weight per class, in the order of the dictionary"},
    )

    def check(self) -> Iterator[Finding]:
        given = self.class_weight_list is not None
        if given != (str(self.class_weights) == "list"):
            yield wrong(
                f"criterion.class_weights is {self.class_weights}, but criterion.class_weight_list is "
                f"{'set' if given else 'not set'}. Set class_weights=list and class_weight_list together, or neither.",
                "classification",
            )
        if self.class_weight_list is not None and not all(weight >= 0 for weight in self.class_weight_list):
            yield wrong(
                f"criterion.class_weight_list is {list(self.class_weight_list)}: weights must be at least 0.",
                "classification",
            )


class HasClasses(Protocol):
    """A task whose dictionary has one symbol per class, with its number of training utterances."""

    @property
    def target_dictionary(self) -> Dictionary: ...


class Classifier(Protocol):
    """The method this criterion calls on a model, apart from its forward pass."""

    training: bool

    def get_normalized_probs(self, net_output: Tensor, log_probs: bool) -> Tensor: ...


def class_weights(cfg: ClassificationCriterionConfig, dictionary: Dictionary) -> Tensor | None:
    """Return the weight of each class, K, fp32; None: all 1.

    Raises:
        ValueError: the list has another length than the dictionary.
    """
    given = cfg.class_weight_list
    if str(cfg.class_weights) == "none":
        return None
    if given is not None:  # the config's rules: only with class_weights=list
        if len(given) != len(dictionary):
            names = ", ".join(dictionary.symbols[:20]) + (" ..." if len(dictionary) > 20 else "")
            raise ValueError(
                f"criterion.class_weight_list has {len(given)} weights, but there are {len(dictionary)} classes: "
                f"{names}. Give one weight per class, in this order."
            )
        return torch.tensor([float(weight) for weight in given])
    counts = torch.tensor(dictionary.count, dtype=torch.float64)
    present = counts > 0
    weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
    return weights.float()


@register_criterion("classification", dataclass=ClassificationCriterionConfig)
class ClassificationCriterion(FairseqCriterion):
    """Negative log-likelihood of the class, in nats, summed over rows with weight above 0.

    The sample size is the number of these rows, so class weights change the gradient's size per utterance, but not
    its mean over the training data if they have mean 1 there. Metrics are sums on the device, so that nothing waits
    for it: counts per class for accuracy and F1, and in validation two histograms of log-odds for the equal error
    rate, which is therefore exact to the width of a bin.
    """

    class_weights: Tensor | None

    def __init__(self, cfg: ClassificationCriterionConfig, task: HasClasses) -> None:
        super().__init__(None)
        refuse(cfg, "criterion", type(self))
        self.task = task
        self.num_classes = len(task.target_dictionary)
        self.register_buffer("class_weights", class_weights(cfg, task.target_dictionary), persistent=False)

    def forward(
        self, model: nn.Module, sample: Mapping[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Loss of one batch.

        Args:
            model: a Wav2VecClassification or similar, possibly wrapped for distributed training.
            sample: net_input, the model's arguments; target, int64, B x 1; and if the worker made them,
                target_weights, float32, B, 0 for filler. All but net_input can be on the host.
            reduce: ignored (fairseq's callers pass it); the loss is always a sum.
        Returns:
            The loss (0-dim, fp32); the number of rows with weight above 0 (0-dim, fp32); and the values to log.
        """
        net_output = model(**sample["net_input"])
        module = cast(Classifier, unwrapped(model))
        device = device_layer.of(net_output)
        with device.full_precision():
            log_probs = module.get_normalized_probs(net_output, log_probs=True)  # B x K
            given = sample.get("target_weights")
            counts = device.send(torch.ones(log_probs.size(0)) if given is None else given)
            # one-hot products instead of indexing: the same shapes for every batch, and no gather on hpu
            classes = torch.arange(log_probs.size(1), device=log_probs.device)
            actual = (device.send(sample["target"]) == classes).float()  # B x K
            rows = -(log_probs * actual).sum(dim=1)
            if self.class_weights is not None:
                rows = rows * (actual @ device.send(self.class_weights))
            loss, nsentences = (rows * counts).sum(), counts.sum()
            log = {"loss": loss.detach(), "nsentences": nsentences, "ntokens": nsentences, "sample_size": nsentences}
            with torch.no_grad():
                predicted = (log_probs.argmax(dim=1, keepdim=True) == classes).float()
                weighted = actual * counts.unsqueeze(1)
                log["class_correct"] = (weighted * predicted).sum(dim=0)
                log["class_predicted"] = (predicted * counts.unsqueeze(1)).sum(dim=0)
                log["class_actual"] = weighted.sum(dim=0)
                if not module.training:
                    log.update(_trials(log_probs, actual, counts))
                corpora = sample.get("corpora")
                if corpora is not None:
                    values = {"loss": rows, "sample_size": counts, "count": counts}
                    values["correct"] = (weighted * predicted).sum(dim=1)
                    log.update(per_corpus.sums(device.send(corpora), values))
        return loss, nsentences, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log results over forward passes and processes: loss in bits; accuracy, f1 and eer as shares of 1."""
        total = summed(logging_outputs)
        sample_size = float(total.get("sample_size", 0))
        metrics.log_scalar("loss", float(total.get("loss", 0)) / (sample_size or 1) / math.log(2), sample_size, round=3)
        metrics.log_scalar("ntokens", float(total.get("ntokens", 0)))
        metrics.log_scalar("nsentences", float(total.get("nsentences", 0)))
        if "class_actual" not in total:
            return
        correct, predicted, actual = (
            torch.from_numpy(total[f"class_{name}"]) for name in ("correct", "predicted", "actual")
        )
        metrics.log_scalar("_correct", float(correct.sum()))
        metrics.log_scalar("_total", float(actual.sum()))
        metrics.log_derived("accuracy", Rate("_correct", "_total", factor=1))
        for name, value in (("correct", correct), ("predicted", predicted), ("actual", actual)):
            metrics.log_scalar_sum(f"_class_{name}", value)
        metrics.log_derived("f1", _f1)
        if "target_trials" in total:
            rate = equal_error_rate_of_counts(total["target_trials"], total["other_trials"])
            metrics.log_scalar("eer", rate, round=5)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def _trials(log_probs: Tensor, actual: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Count trials by their score: is this row of this class?

    Args:
        log_probs, actual: B x K.
        counts: 1 for rows that count, else 0, B.
    Returns:
        target_trials and other_trials: those of the row's own class and of others, BINS each.
    """
    columns = trial_classes(log_probs.size(1))
    scores, own = log_odds(log_probs)[:, columns], actual[:, columns]
    share = (scores + LARGEST_LOG_ODDS) / (2 * LARGEST_LOG_ODDS)
    bins = (share * BINS).long().clamp(0, BINS - 1).flatten()
    empty = torch.zeros(BINS, device=scores.device)
    weights = counts.unsqueeze(1)
    return {
        "target_trials": empty.index_add(0, bins, (own * weights).flatten()),
        "other_trials": empty.index_add(0, bins, ((1 - own) * weights).flatten()),
    }


def _f1(meters: MetersDict) -> float:
    correct, predicted, actual = (
        np.asarray(meters[f"_class_{name}"].sum) for name in ("correct", "predicted", "actual")
    )
    return round(macro_f1(correct, predicted, actual), 5)
