"""What explanations are judged by, measured from a checkpoint, its outputs and its audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.decoding.beam import BeamDecoder
from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.tokens import Tokens
from fairseq.inference import recognise
from fairseq.inference.model import SpeechModel
from fairseq.inference.recognise import Reading
from fairseq.inference.statistics import AudioFacts, OutputStatistics, measure_audio
from fairseq.inference.testset import TestSet
from fairseq.inference.windows import WindowSettings
from fairseq.models.wav2vec import pretrained
from fairseq.scoring.wer import character_errors, word_errors

_LOOKED_AT = 20  # utterances whose audio is measured


@dataclass
class Facts:
    """What the causes are judged by."""

    tokens: Tokens
    references: list[str]  # words
    unit_references: list[str]
    texts: list[str]  # hypotheses
    errors: list[str]  # of utterances that could not be read
    outputs: OutputStatistics
    audio: AudioFacts
    sample_rate: int
    num_updates: int | None  # that the checkpoint was trained for; None: it does not say
    freeze_updates: int  # model.freeze_finetune_updates
    max_update: int  # optimization.max_update; 0: not known
    head_bias: np.ndarray  # of the output layer, V
    normalize: bool
    pretraining_normalize: bool | None
    flipped_wer: tuple[float, float] | None = None  # WER of some utterances as they are, and with `normalize` the other way round
    greedy_wer: float | None = None  # where a beam was used
    lexicon_misses: list[str] | None = None  # words of the references that the lexicon does not have

    @property
    def wer(self) -> float:
        return word_errors(self.references, self.texts).rate()

    @property
    def cer(self) -> float:
        return character_errors(self.references, self.texts).rate()

    @property
    def blank_share(self) -> float:
        return self.outputs.share(self.tokens.blank)


def gather_facts(
    model: SpeechModel,
    testset: TestSet,
    readings: Sequence[Reading],
    decoder: Any,
    outputs: OutputStatistics,
    windows: WindowSettings,
    max_tokens: int,
) -> Facts:
    """Measure. Some utterances are read again: greedily, as they are and with `normalize` the other way round."""
    chosen = [reading.index for reading in readings if reading.error is None][:_LOOKED_AT]
    files = [testset.manifest.file(index) for index in chosen]
    references = [testset.references[index] for index in chosen] if testset.references else []
    facts = Facts(
        tokens=model.dictionary(),
        references=testset.references,
        unit_references=testset.unit_references,
        texts=[reading.hypotheses[0].text for reading in readings],
        errors=[reading.error for reading in readings if reading.error is not None],
        outputs=outputs,
        audio=measure_audio([model.open(file) for file in files]),
        sample_rate=model.sample_rate,
        normalize=model.normalize,
        **checkpoint_facts(model),
    )
    if not references:
        return facts

    def greedy_wer(normalize: bool) -> float:
        own, model.normalize = model.normalize, normalize
        found = recognise.read_all(
            model, files, [testset.manifest.sizes[index] for index in chosen], GreedyDecoder(facts.tokens), windows, max_tokens
        )
        model.normalize = own
        return word_errors(references, [reading.hypotheses[0].text for reading in found]).rate()

    facts.flipped_wer = (greedy_wer(model.normalize), greedy_wer(not model.normalize))
    if isinstance(decoder, BeamDecoder):
        facts.greedy_wer = facts.flipped_wer[0]
        words = {entry.word for entry in decoder.vocabulary.entries}
        if words:
            facts.lexicon_misses = [word for text in testset.references for word in text.split() if word not in words]
    return facts


def checkpoint_facts(model: SpeechModel) -> dict[str, Any]:
    """What a fine-tuned checkpoint says about itself, as arguments of Facts."""
    optimization = model.cfg.get("optimization") or {}
    encoder = model.model.w2v_encoder
    return {
        "num_updates": model.num_updates,
        "freeze_updates": int(model.model.cfg.freeze_finetune_updates),
        "max_update": int(optimization.get("max_update") or 0),
        "head_bias": encoder.proj.bias.float().cpu().numpy(),
        "pretraining_normalize": pretrained.normalizes(pretrained.as_container(model.model.cfg.w2v_args)),
    }
