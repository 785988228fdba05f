"""The wav2vec 2.0 objective: InfoNCE, codebook diversity and feature penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq import utils
from fairseq.criterions import per_corpus, register_criterion
from fairseq.criterions.fairseq_criterion import FairseqCriterion, unwrapped
from fairseq.data.batch import Batch
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.crossing import loss_weights_problem
from fairseq.logging import metrics
from fairseq.logging.meters import safe_round

# the sum of a scope: how often each codeword was the most likely one, int64, G*V; rows do not have it
CODE_COUNTS = "_code_counts"


@dataclass
class Wav2VecCriterionConfig(FairseqDataclass):
    infonce: bool = field(
        default=False,
        metadata={
            "help": (
                "true: cross-entropy over the positive and its negatives, as in the paper; false: binary "
                "cross-entropy of each"
            )
        },
    )
    loss_weights: Optional[list[float]] = field(
        default=None,
        metadata={"help": "weights of the additional losses: codebook diversity (with a quantizer), feature penalty"},
    )
    log_keys: list[str] = field(
        default_factory=list, metadata={"help": "values of the model's output to log, such as code_perplexity"}
    )


class ContrastiveModel(Protocol):
    """The methods this criterion calls on a model, apart from its forward pass."""

    def get_logits(self, net_output: Mapping[str, Any]) -> Tensor: ...

    def get_targets(self, sample: Any, net_output: Mapping[str, Any]) -> Tensor: ...

    def get_extra_losses(self, net_output: Mapping[str, Any]) -> list[Tensor]: ...


@register_criterion("wav2vec", dataclass=Wav2VecCriterionConfig)
class Wav2vecCriterion(FairseqCriterion):
    """Loss of predicting masked frames, in nats, summed over masked frames with weight above 0.

    Logged values are 0-dim tensors on the device, and a vector of code counts, which can be summed over forward passes
    and processes.
    """

    def __init__(
        self,
        task: Any = None,
        infonce: bool = False,
        loss_weights: Sequence[float] | None = None,
        log_keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(task)
        self.infonce = infonce
        self.loss_weights = None if loss_weights is None else list(loss_weights)
        self.log_keys = list(log_keys or [])

    def forward(self, model: nn.Module, sample: Batch, reduce: bool = True) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Loss of one batch.

        Args:
            model: a Wav2Vec2Model or similar, possibly wrapped for distributed training.
            sample: `net_input`, the model's arguments.
            reduce: False returns the losses of the masked frames (M*B, 0 for filler) instead of the loss.
        Returns:
            The loss (0-dim, fp32), the number of masked frames with weight above 0 (0-dim, fp32), and the values to
            log, all on the device.
        Raises:
            ValueError: the number of `loss_weights` differs from the number of the model's additional losses.
        """
        net_output = model(**sample["net_input"])
        module = cast(ContrastiveModel, unwrapped(model))
        with device_layer.of(net_output["x"]).full_precision():
            logits = module.get_logits(net_output).float()
            weights = net_output["masked_weights"].float()
            counts = weights.t().flatten()  # position-major, like the logits
            # hpu: static shapes: filler positions have a loss too, with weight 0; selecting the others would change the
            # shape
            per_frame = self._loss_per_frame(logits, module.get_targets(sample, net_output), counts)
            sample_size = counts.sum()
            losses = [per_frame.sum(), *self._further_losses(module, net_output, sample_size)]
            loss = torch.stack(losses).sum()
            # hpu: log detached 0-dim tensors on the device; the trainer reads their sums once per log interval
            logging_output = self._logged(net_output, logits.detach(), weights, losses, loss)
            if "corpora" in sample:
                membership = device_layer.of(net_output["x"]).send(sample["corpora"])
                rows = self._rows(logits.detach(), weights, per_frame.detach(), loss.detach())
                logging_output.update(per_corpus.sums(membership, rows))
        return (loss if reduce else per_frame), sample_size, logging_output

    def _loss_per_frame(self, logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Loss of each masked frame times its weight, M*B; candidates at -inf are ignored."""
        if self.infonce:
            return F.cross_entropy(logits, target, reduction="none") * counts
        is_positive = torch.zeros_like(logits)
        is_positive[:, 0] = 1
        possible = logits > -(2.0**29)  # hpu: excluded negatives have -2^30 there, -inf elsewhere
        answers = F.binary_cross_entropy_with_logits(logits.masked_fill(~possible, 0), is_positive, reduction="none")
        return (answers * possible.float()).sum(dim=1) * counts

    def _further_losses(
        self, model: ContrastiveModel, net_output: Mapping[str, Any], sample_size: Tensor
    ) -> list[Tensor]:
        """The model's additional losses times weight and number of masked frames, without those of weight 0."""
        if self.loss_weights is None:
            return []
        further = model.get_extra_losses(net_output)
        weights = self.loss_weights * len(further) if len(self.loss_weights) == 1 else self.loss_weights
        if len(weights) != len(further):
            raise ValueError(loss_weights_problem(weights, len(further)))
        return [
            weight * loss.float() * sample_size for weight, loss in zip(weights, further, strict=True) if weight != 0
        ]

    @torch.no_grad()
    def _logged(
        self, net_output: Mapping[str, Any], logits: Tensor, weights: Tensor, losses: list[Tensor], loss: Tensor
    ) -> dict[str, Any]:
        """Values to log: sums over the batch, and log keys times `nonempty`, to leave empty batches out of means."""
        counts = weights.t().flatten()
        sample_size = counts.sum()
        nonempty = (sample_size > 0).float()
        logged: dict[str, Any] = {
            "loss": loss.detach(),
            "ntokens": sample_size,
            "nsentences": (weights > 0).any(dim=1).float().sum(),
            "sample_size": sample_size,
            "nonempty": nonempty,
        }
        for key in self.log_keys:
            if key in net_output:
                value = net_output[key]
                logged[key] = (value.detach().float() if isinstance(value, Tensor) else float(value)) * nonempty
        if "code_counts" in net_output:
            logged["code_counts"] = net_output["code_counts"].detach().float().flatten()
        if len(losses) > 1:
            logged.update({f"loss_{number}": part.detach() for number, part in enumerate(losses)})
        if self.infonce:
            # if all candidates have the same logit, argmax is 0, but that is not a correct prediction
            right = (logits.argmax(dim=1) == 0) & (logits.argmin(dim=1) != 0)
            logged["correct"] = (right & (counts > 0)).float().sum()
            logged["count"] = (counts > 0).float().sum()
        return logged

    @torch.no_grad()
    def _rows(self, logits: Tensor, weights: Tensor, per_frame: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """Values of each row to log by corpus, B. Losses of the whole batch are shared out by masked frames."""
        frames = weights.sum(dim=1)
        of_batch = (loss - per_frame.sum()) / frames.sum().clamp(min=1)
        rows = {"loss": per_frame.view(-1, len(frames)).sum(dim=0) + of_batch * frames, "sample_size": frames}
        if self.infonce:
            right = (logits.argmax(dim=1) == 0) & (logits.argmin(dim=1) != 0)
            rows["correct"] = (right.view(-1, len(frames)).t() & (weights > 0)).float().sum(dim=1)
            rows["count"] = (weights > 0).float().sum(dim=1)
        return rows

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log means over all forward passes and processes of an update; losses in bits per masked frame."""
        total = {
            key: sum(utils.item(log.get(key, 0)) for log in logging_outputs)
            for log in logging_outputs[:1]
            for key in log
            if key != "code_counts"
        }
        for log in logging_outputs:
            if "code_counts" in log:
                counts = torch.as_tensor(log["code_counts"], dtype=torch.float64, device="cpu")
                metrics.log_scalar_sum(CODE_COUNTS, counts.round().long())
        sample_size = total.get("sample_size", 0)
        for key, value in total.items():
            if key.startswith("loss"):
                metrics.log_scalar(key, value / (sample_size or 1) / math.log(2), sample_size, round=3)
        metrics.log_scalar("ntokens", total.get("ntokens", 0))
        metrics.log_scalar("nsentences", total.get("nsentences", 0))
        if "count" in total:
            metrics.log_scalar("_correct", total["correct"])
            metrics.log_scalar("_total", total["count"])
            metrics.log_derived("accuracy", _accuracy)
        handled = {"ntokens", "nsentences", "sample_size", "correct", "count", "nonempty"}
        passes = total.get("nonempty", 0)
        for key, value in total.items():
            if key not in handled and not key.startswith("loss") and passes > 0:
                metrics.log_scalar(key, value / passes, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def _accuracy(meters: Any) -> float:
    """Share of masked frames where the positive has the largest logit."""
    total = meters["_total"].sum
    return safe_round(meters["_correct"].sum / total, 5) if total > 0 else float("nan")
