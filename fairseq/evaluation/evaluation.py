"""Run a model on a test set, and tune its beam search on a development set."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from fairseq.decoding.beam import BeamDecoder
from fairseq.evaluation.measurements import OutputStatistics
from fairseq.evaluation.testset import TestSet
from fairseq.evaluation.tuning import tune
from fairseq.inference import recognise
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.inference.recognise import Reading
from fairseq.inference.streaming import Decoder
from fairseq.inference.windows import WindowSettings
from fairseq.scoring.wer import word_errors

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """The hypotheses for a test set, and the settings that produced them; `facts` reruns parts of it."""

    model: SpeechModel
    testset: TestSet
    decoder: Decoder
    windows: WindowSettings
    max_tokens: int  # samples per batch
    readings: list[Reading]  # one per utterance, in the manifest's order
    outputs: OutputStatistics

    @classmethod
    def of(
        cls, model: SpeechModel, testset: TestSet, decoder: Decoder, windows: WindowSettings, max_tokens: int
    ) -> Evaluation:
        """Recognise a test set; an utterance that cannot be read is logged and has an empty hypothesis."""
        outputs = OutputStatistics()
        sizes = testset.manifest.sizes.tolist()
        readings = recognise.read_all(model, testset.files(), sizes, decoder, windows, max_tokens, outputs.watch)
        return cls(model, testset, decoder, windows, max_tokens, readings, outputs)


def tune_on(model: SpeechModel, dev: TestSet, decoder: BeamDecoder, windows: WindowSettings, max_tokens: int) -> None:
    """Set the decoder's weights to those with the fewest word errors on a development set."""
    log_probs: list[np.ndarray] = [np.zeros((0, len(model.dictionary().symbols)), dtype=np.float32)] * len(dev)
    with Progress(f"reading {dev.name}", len(dev)) as progress:
        for emission in recognise.emissions(model, dev.files(), dev.manifest.sizes.tolist(), windows, max_tokens):
            pieces = list(recognise.ticking(emission.pieces, progress))
            if pieces:
                log_probs[emission.index] = np.concatenate(pieces)
            progress.advance()
    tune(decoder, log_probs, lambda texts: word_errors(dev.references, texts).errors)
