"""Measure how much of a pre-trained codebook new audio uses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fairseq.data.audio.audio_utils import UnreadableAudio
from fairseq.device import Device
from fairseq.modules import GumbelVectorQuantizer

logger = logging.getLogger(__name__)

MINUTES = 5.0  # of audio to measure: 15,000 frames, 47 per codeword of base
_FEW = 0.1  # warn if the effective number of codewords is below this share of a group


class HasCodebook(Protocol):
    """A model with a quantizer, such as Wav2Vec2Model."""

    training: bool

    @property
    def quantizer(self) -> GumbelVectorQuantizer | None: ...

    def train(self, mode: bool = True) -> nn.Module: ...

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor: ...


class Recordings(Protocol):
    """A data set of waveforms."""

    @property
    def max_sample_size(self) -> int | None:
        """Longer waveforms are cut to this many samples."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        """`source`: samples, S."""
        ...


class CodebookUse(NamedTuple):
    """Codewords assigned to the frames of some audio."""

    seconds: float
    frames: int
    used: list[int]  # distinct codewords per group
    # per group, exp of the entropy of their shares: the number of equally common codewords with the same entropy
    effective: list[float]
    num_vars: int  # V

    def is_little(self) -> bool:
        return self.frames > 0 and min(self.effective) < _FEW * self.num_vars

    def __str__(self) -> str:
        groups = "; ".join(
            f"group {number}: {used} of {self.num_vars} codewords, {effective:.1f} effective"
            for number, (used, effective) in enumerate(zip(self.used, self.effective, strict=True))
        )
        return f"{self.seconds / 60:.1f} minutes of the new audio, {self.frames} frames: {groups}"


@torch.no_grad()
def measure(
    model: HasCodebook, dataset: Recordings, device: Device, sample_rate: int, seed: int, minutes: float = MINUTES
) -> CodebookUse:
    """Count the most likely codeword of every frame, over utterances drawn at random for `minutes` of audio.

    Files that cannot be decoded are skipped; training reports them. The model's mode is restored.

    Args:
        model: a model with a quantizer, on the device.
        seed: for drawing the utterances.
    """
    quantizer = model.quantizer
    assert quantizer is not None
    counts = torch.zeros(quantizer.groups, quantizer.num_vars, dtype=torch.float64)
    was_training, samples = model.training, 0
    model.train(False)
    longest = dataset.max_sample_size
    for index in np.random.default_rng([seed, len(dataset)]).permutation(len(dataset)).tolist():
        if samples >= minutes * 60 * sample_rate:
            break
        try:
            source = dataset[index]["source"][:longest]
        except (ValueError, OSError, UnreadableAudio):
            continue
        if model._get_feat_extract_output_lengths(torch.tensor(len(source))) <= 0:
            continue
        _, codes = model.quantize(device.send(source.unsqueeze(0)))
        for group in range(quantizer.groups):
            counts[group] += torch.bincount(codes[0, :, group].cpu().long(), minlength=quantizer.num_vars)
        samples += len(source)
    model.train(was_training)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(dim=1)
    frames = int(counts[0].sum())
    return CodebookUse(
        samples / sample_rate, frames, (counts > 0).sum(dim=1).tolist(), entropy.exp().tolist(), quantizer.num_vars
    )


def report(model: HasCodebook, dataset: Recordings, device: Device, sample_rate: int, seed: int) -> CodebookUse | None:
    """Measure and log; warn if few codewords are used. None for a model without a quantizer."""
    if getattr(model, "quantizer", None) is None:
        logger.info("checkpoint.continue_pretraining: codebook use is not measured, because the model has no codebook")
        return None
    use = measure(model, dataset, device, sample_rate, seed)
    logger.info("codebook use before the first update: %s", use)
    if use.is_little():
        logger.warning(
            "The new audio uses few codewords (an effective number below a tenth of a group). Either it differs from "
            "the old audio in loudness, sample rate or task.normalize, or the codebook has collapsed. Check the audio; "
            "for a collapsed codebook, raise criterion.loss_weights[0] (diversity) or pre-train from random weights."
        )
    return use
