"""Connectionist temporal classification (Graves et al. 2006), and error rates in validation."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol, cast

import torch
from omegaconf import II
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.criterions import per_corpus, register_criterion
from fairseq.criterions.fairseq_criterion import FairseqCriterion, unwrapped
from fairseq.data.data_utils import post_process
from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.dataclass.checks import refuse
from fairseq.logging import metrics
from fairseq.scoring.greedy_scorer import GreedyScorer, log_rates, summed


@dataclass
class CtcCriterionConfig(FairseqDataclass):
    zero_infinity: bool = field(
        default=False, metadata={"help": "the loss of an utterance whose label is too long for its frames is 0"}
    )
    sentence_avg: bool = II("optimization.sentence_avg")
    post_process: str = field(
        default="letter",
        metadata={"help": "how units become words: letter, sentencepiece, silence, none ..."},
    )
    wer_kenlm_model: Optional[str] = field(
        default=None, metadata={"help": "not supported: use fairseq-infer to decode with a language model"}
    )
    wer_lexicon: Optional[str] = field(
        default=None, metadata={"help": "not supported: use fairseq-infer to decode with a lexicon"}
    )
    wer_lm_weight: float = field(default=2.0, metadata={"help": "belongs to wer_kenlm_model"})
    wer_word_score: float = field(default=-1.0, metadata={"help": "belongs to wer_kenlm_model"})
    wer_sil_weight: float = field(default=0, metadata={"help": "belongs to wer_kenlm_model"})
    wer_args: Any = field(
        default=None,
        metadata={
            "help": "wer_kenlm_model, wer_lexicon, wer_lm_weight and wer_word_score as a list or a Python tuple in "
            "quotes, as in older configs"
        },
    )

    def check(self) -> Iterator[Finding]:
        try:
            post_process("", self.post_process)
        except ValueError as error:
            yield wrong(f"criterion.{error}", "single-values")
        if self.wer_args is None:
            return
        try:
            model, lexicon, *_ = read_wer_args(self.wer_args)
        except ValueError as error:
            yield wrong(str(error), "wer-args")
            return
        if model or lexicon:
            yield wrong(
                f"criterion.wer_args names {' and '.join(path for path in (model, lexicon) if path)}: validation "
                "decodes greedily, without a language model or a lexicon. Remove criterion.wer_args, and decode the "
                "checkpoint with fairseq-infer --lm and --lexicon.",
                "wer-args",
            )


def read_wer_args(value: Any) -> tuple[str | None, str | None, float, float]:
    """Parse `wer_args` to (wer_kenlm_model, wer_lexicon, wer_lm_weight, wer_word_score).

    Args:
        value: a list or tuple of the four, or its text.
    Raises:
        ValueError: anything else.
    """
    try:
        model, lexicon, lm_weight, word_score = ast.literal_eval(value) if isinstance(value, str) else value
        if not all(path is None or isinstance(path, str) for path in (model, lexicon)):
            raise TypeError("paths are strings")
        return model, lexicon, float(lm_weight), float(word_score)
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"criterion.wer_args is {value!r}: it must be a list of language model, lexicon, lm_weight and "
            f"word_score, such as ['lm.bin', 'lexicon.txt', 2.0, -1.0], or a tuple of them in quotes ({error})."
        ) from error


class CtcModel(Protocol):
    """The methods this criterion calls on a model, apart from its forward pass."""

    training: bool

    def get_normalized_probs(self, net_output: Any, log_probs: bool) -> Tensor: ...


@register_criterion("ctc", dataclass=CtcCriterionConfig)
class CtcCriterion(FairseqCriterion):
    """Negative log-likelihood of the labels, in nats, summed over utterances with weight above 0.

    Training logs 0-dim tensors on the device, which are summed over forward passes and processes. Validation decodes
    greedily on the host: error rates of words and units, the share of the dictionary in use, and the first hypotheses
    (`scorer.examples`).
    """

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(task)
        refuse(cfg, "criterion", type(self))
        self.dictionary = task.target_dictionary
        self.blank_idx = self.dictionary.bos()
        self.pad_idx, self.eos_idx = self.dictionary.pad(), self.dictionary.eos()
        self.post_process = cfg.post_process
        self.sentence_avg = cfg.sentence_avg
        self.zero_infinity = cfg.zero_infinity
        self.scorer = GreedyScorer(self._words, self.blank_idx, len(self.dictionary), self.dictionary.nspecial)

    def forward(
        self, model: nn.Module, sample: Mapping[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Loss of one batch.

        Args:
            model: a Wav2VecCtc or similar, possibly wrapped for distributed training.
            sample: net_input, the model's arguments; target, int64, B x U, and id; and if the worker made them,
                target_lengths and input_lengths, int64, B, and target_weights, float32, B. All but net_input can be on
                the host, where most devices' kernels need lengths; then nothing here waits for the device.
            reduce: ignored (fairseq's callers pass it); the loss is always a sum.
        Returns:
            The loss (0-dim, fp32); the number of units, or with `sentence_avg` of utterances, with weight above 0
            (0-dim, fp32); and the values to log.
        """
        net_output = model(**sample["net_input"])
        module = cast(CtcModel, unwrapped(model))
        device = device_layer.of(net_output["encoder_out"])
        with device.full_precision():
            log_probs = module.get_normalized_probs(net_output, log_probs=True).contiguous()
            input_lengths = self._input_lengths(sample, net_output, log_probs)
            target_lengths = self._target_lengths(sample)
            weights = sample.get("target_weights")
            weights = torch.ones(log_probs.size(1)) if weights is None else weights
            loss, rows = device.ctc_loss(
                log_probs, sample["target"], input_lengths, target_lengths, weights, self.blank_idx, self.zero_infinity
            )
            counts = device.send(weights)
            nsentences = counts.sum()
            units = device.send(target_lengths.float()) * counts
            ntokens = units.sum()
            sample_size = nsentences if self.sentence_avg else ntokens
            log = {"loss": loss.detach(), "ntokens": ntokens, "nsentences": nsentences, "sample_size": sample_size}
            with torch.no_grad():
                path = log_probs.argmax(dim=-1).t()  # B x T
                log.update(self.scorer.blanks(path, device.send(input_lengths), counts))
                corpora = sample.get("corpora")
                if corpora is not None:
                    sizes = {"sample_size": counts if self.sentence_avg else units}
                    of_rows = {**({} if rows is None else {"loss": rows}), **sizes}
                    log.update(per_corpus.sums(device.send(corpora), of_rows))
                if not module.training:
                    arguments = (path, sample["target"], input_lengths, target_lengths, weights, corpora)
                    log.update(self.scorer.score(*arguments, ids=sample.get("id")))
        return loss, sample_size, log

    def _input_lengths(self, sample: Mapping[str, Any], net_output: Mapping[str, Any], log_probs: Tensor) -> Tensor:
        """Frames of each row, B."""
        T, B = log_probs.shape[:2]
        if "input_lengths" in sample:
            return sample["input_lengths"].clamp(1, T)
        if net_output["padding_mask"] is not None:
            return (~net_output["padding_mask"]).sum(dim=1)
        return torch.full((B,), T)

    def _target_lengths(self, sample: Mapping[str, Any]) -> Tensor:
        """Units of each row, B."""
        if "target_lengths" in sample:
            return sample["target_lengths"]
        return ((sample["target"] != self.pad_idx) & (sample["target"] != self.eos_idx)).sum(dim=1)

    def _words(self, units: Iterable[int]) -> str:
        return post_process(self.dictionary.string(units), self.post_process)

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log results over forward passes and processes: loss in bits, error rates and shares in percent."""
        total = summed(logging_outputs)
        sample_size, ntokens = float(total.get("sample_size", 0)), float(total.get("ntokens", 0))
        loss = float(total.get("loss", 0)) / math.log(2)
        metrics.log_scalar("loss", loss / (sample_size or 1), sample_size, round=3)
        metrics.log_scalar("ntokens", ntokens)
        metrics.log_scalar("nsentences", float(total.get("nsentences", 0)))
        if sample_size != ntokens:
            metrics.log_scalar("nll_loss", loss / (ntokens or 1), ntokens, round=3)
        log_rates(total)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
