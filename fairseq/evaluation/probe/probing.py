"""Probe a checkpoint: its best layer, and the error rate of a small CTC model on that layer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.hypothesis import Hypothesis
from fairseq.evaluation.error_rates import CountErrors, Rate, rate_of
from fairseq.evaluation.probe.labelled import Labelled
from fairseq.evaluation.probe.layers import extract_layers
from fairseq.evaluation.probe.reader import CONVOLUTIONS, LINEAR, Form, Reader, train_reader
from fairseq.inference.model import SpeechModel
from fairseq.inference.windows import WindowSettings
from fairseq.scoring.wer import character_errors, word_errors

logger = logging.getLogger(__name__)

CHOSEN_ON = 0.25  # of the training utterances: the layers are compared on these


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe is trained, and what is drawn at random.

    Args:
        comparing: the models that compare layers.
        reading: the model on the best layer.
        seed: of the utterances on which layers are compared, the order of batches, and the interval.
        draws: test sets drawn for the interval.
    """

    comparing: Form = LINEAR
    reading: Form = CONVOLUTIONS
    seed: int = 1
    draws: int = 1000
    windows: WindowSettings = field(default_factory=WindowSettings)


class ProbeResult(NamedTuple):
    """What a probe found.

    Args:
        layer: the best one: `extractor`, or the number of a block (0: the first).
        layers: CTC loss of each layer in the comparison, in bits per unit.
        rate: character errors of the held-out part, in per cent, with the intervals over utterances and speakers; for
            labels that are not letters, errors of units.
        loss: CTC loss of the held-out part, in bits per unit; it tells close checkpoints apart better than errors do.
        seconds: of processor time, for features and probes.
    """

    layer: str
    layers: dict[str, float]
    rate: Rate
    loss: float
    seconds: float


def probe(
    model: SpeechModel, data: Labelled, settings: ProbeSettings | None = None, tick: Callable[[], None] | None = None
) -> ProbeResult:
    """Find the layer whose features spell the speech best, and measure how well they do.

    The layers are compared by the CTC loss of linear models on a quarter of the training part; the held-out part is
    used only for the error rate.

    Args:
        tick: called after each utterance's features and each probe.
    Raises:
        ValueError: audio cannot be read, or is shorter than one frame.
    """
    began = time.process_time()
    settings = ProbeSettings() if settings is None else settings
    step = (lambda: None) if tick is None else tick
    training = extract_layers(model, data.training.audios, settings.windows, step)
    held_out = extract_layers(model, data.held_out.audios, settings.windows, step)
    losses = {}
    for name, features in training.items():
        losses[name] = _compare(features, data, settings)
        step()
    best = min(losses, key=lambda name: losses[name])
    reader = train_reader(
        training[best], data.training.units, len(data.tokens.symbols), settings.reading, settings.seed
    )
    step()
    rate = _error_rate(reader, held_out[best], data, settings)
    loss = round(reader.loss(held_out[best], data.held_out.units), 4)
    return ProbeResult(best, losses, rate, loss, time.process_time() - began)


def _compare(features: list[Tensor], data: Labelled, settings: ProbeSettings) -> float:
    """Loss of a linear model on a quarter of the training part, trained on the rest."""
    units = data.training.units
    order = np.random.default_rng([settings.seed, len(units)]).permutation(len(units)).tolist()
    count = max(1, round(CHOSEN_ON * len(order)))
    kept, compared = order[count:], order[:count]
    symbols = len(data.tokens.symbols)
    linear = train_reader(
        [features[i] for i in kept], [units[i] for i in kept], symbols, settings.comparing, settings.seed
    )
    return round(linear.loss([features[i] for i in compared], [units[i] for i in compared]), 4)


def _error_rate(reader: Reader, features: list[Tensor], data: Labelled, settings: ProbeSettings) -> Rate:
    decoder, part = GreedyDecoder(data.tokens), data.held_out
    found: list[Hypothesis] = [decoder.decode(reader.log_probs(utterance))[0] for utterance in features]
    count: CountErrors = character_errors
    references, hypotheses = part.references, [hypothesis.text for hypothesis in found]
    if data.tokens.kind == "none":
        count, references = word_errors, part.unit_references
        hypotheses = [hypothesis.unit_text for hypothesis in found]
    return rate_of(count, references, hypotheses, part.speakers, settings.draws, settings.seed)
