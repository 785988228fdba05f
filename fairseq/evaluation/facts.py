"""Measure what explanations need from a checkpoint, its outputs and its audio."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from fairseq.data.data_utils import numpy_seed
from fairseq.decoding.beam import BeamDecoder
from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.tokens import Tokens
from fairseq.evaluation.evaluation import Evaluation
from fairseq.evaluation.measurements import AudioFacts, OutputStatistics, measure_audio
from fairseq.inference import recognise
from fairseq.inference.model import SpeechModel
from fairseq.models.wav2vec import pretrained
from fairseq.scoring.wer import character_errors, word_errors

_LOOKED_AT = 20  # utterances whose audio is measured, and that are recognised again


@dataclass
class Facts:
    """Measurements that the causes are tested against."""

    tokens: Tokens
    references: list[str]  # words
    unit_references: list[str]
    texts: list[str]  # hypotheses
    errors: list[str]  # of utterances that could not be read
    outputs: OutputStatistics
    audio: AudioFacts
    sample_rate: int
    num_updates: int | None  # of the checkpoint; None: unknown
    freeze_updates: int  # model.freeze_finetune_updates
    max_update: int  # optimization.max_update; 0: unknown
    head_bias: np.ndarray  # of the output layer, V
    normalize: bool
    pretraining_normalize: bool | None
    # WER of a sample of utterances, as is and with `normalize` inverted
    flipped_wer: tuple[float, float] | None = None
    # letters in a sample: recognised, recognised with fine-tuning's masks, in the references
    masked_letters: tuple[int, int, int] | None = None
    greedy_wer: float | None = None  # if beam search was used
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


class CheckpointFacts(TypedDict):
    """The fields of Facts that come from the checkpoint."""

    num_updates: int | None
    freeze_updates: int
    max_update: int
    head_bias: np.ndarray
    pretraining_normalize: bool | None


def gather_facts(evaluation: Evaluation) -> Facts:
    """Measure a model, its outputs and its audio.

    A sample of utterances is decoded again, greedily: as is, with `normalize` inverted, and with training's masks.
    """
    model, testset, readings, decoder = evaluation.model, evaluation.testset, evaluation.readings, evaluation.decoder
    chosen = [reading.index for reading in readings if reading.error is None][:_LOOKED_AT]
    files, sizes = (
        [testset.manifest.audio(index) for index in chosen],
        [int(testset.manifest.sizes[index]) for index in chosen],
    )
    references = [testset.references[index] for index in chosen] if testset.references else []
    facts = Facts(
        tokens=model.dictionary(),
        references=testset.references,
        unit_references=testset.unit_references,
        texts=[reading.hypotheses[0].text for reading in readings],
        errors=[reading.error for reading in readings if reading.error is not None],
        outputs=evaluation.outputs,
        audio=measure_audio([model.open(file) for file in files]),
        sample_rate=model.sample_rate,
        normalize=model.normalize,
        **checkpoint_facts(model),
    )
    if not references:
        return facts

    def read() -> list[str]:
        found = recognise.read_all(
            model,
            files,
            sizes,
            GreedyDecoder(facts.tokens),
            evaluation.windows,
            evaluation.max_tokens,
            title="explaining",
        )
        return [reading.hypotheses[0].text for reading in found]

    plain = read()
    with normalizing(model, not model.normalize):
        flipped = read()
    facts.flipped_wer = (word_errors(references, plain).rate(), word_errors(references, flipped).rate())
    if masks_frames(model):
        with masked_as_in_training(model):
            facts.masked_letters = (count_letters(plain), count_letters(read()), count_letters(references))
    if isinstance(decoder, BeamDecoder):
        facts.greedy_wer = facts.flipped_wer[0]
        words = {entry.word for entry in decoder.guidance.entries}
        if words:
            facts.lexicon_misses = [word for text in testset.references for word in text.split() if word not in words]
    return facts


@contextlib.contextmanager
def normalizing(model: SpeechModel, normalize: bool) -> Iterator[None]:
    """Override whether the model's input is normalised."""
    own, model.normalize = model.normalize, normalize
    try:
        yield
    finally:
        model.normalize = own


def masks_frames(model: SpeechModel) -> bool:
    """Return whether the model was fine-tuned with masked frames."""
    return model.fine_tuned().w2v_encoder.masks_frames


@contextlib.contextmanager
def masked_as_in_training(model: SpeechModel) -> Iterator[None]:
    """Mask frames as in training, with the same masks at each call; the rest is as in inference."""
    with numpy_seed(1), model.fine_tuned().w2v_encoder.masking(True):
        yield


def count_letters(texts: Sequence[str]) -> int:
    """Count characters other than spaces."""
    return sum(len(text.replace(" ", "")) for text in texts)


def checkpoint_facts(model: SpeechModel) -> CheckpointFacts:
    """Read facts from a fine-tuned checkpoint."""
    optimization = model.cfg.get("optimization") or {}
    ctc = model.fine_tuned()
    head = ctc.w2v_encoder.proj
    assert head is not None  # Wav2VecCtc always has one
    return {
        "num_updates": model.num_updates,
        "freeze_updates": int(ctc.cfg.freeze_finetune_updates),
        "max_update": int(optimization.get("max_update") or 0),
        "head_bias": head.bias.float().cpu().numpy(),
        "pretraining_normalize": pretrained.normalizes(ctc.pretraining_config()),
    }
