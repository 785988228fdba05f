"""Small CTC models on frozen features, trained in seconds on the host: a linear one, and two convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

BLANK = 0
_UTTERANCES = 16  # in a batch
_WARM_UP = 20  # updates
_LARGEST_NORM = 1.0  # of the gradient per unit


@dataclass(frozen=True)
class Form:
    """A probe's size and training.

    Args:
        hidden: channels between the convolutions; 0: the probe is linear.
        passes: over all utterances.
        rate: Adam's largest learning rate; it falls linearly to 0.
        dropout: of features and hidden channels.
    """

    hidden: int
    passes: int
    rate: float
    dropout: float = 0.0


LINEAR = Form(hidden=0, passes=8, rate=0.02)
# on AN4 and a small model, CER 63 % with convolutions and 69 % without; a bidirectional GRU took 3 times as long
CONVOLUTIONS = Form(hidden=96, passes=20, rate=0.004, dropout=0.2)
_KERNEL, _DILATION = 5, 2  # frames that the second convolution joins are 40 ms apart, its taps 80 ms


class Batch(NamedTuple):
    """Some utterances of similar length."""

    features: Tensor  # B x C x T, standardised, 0 in padding
    frames: Tensor  # B
    units: Tensor  # of all utterances, one after the other
    lengths: Tensor  # units per utterance, B


@dataclass
class Reader:
    """Log-probabilities of V symbols from features of one layer.

    A linear reader has a frame for each frame of features, one with convolutions for every second.

    Args:
        mean, scale: of each channel over the training frames, C.
        weights: of the convolutions, each followed by its bias.
    """

    form: Form
    mean: Tensor
    scale: Tensor
    weights: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def log_probs(self, features: Tensor) -> np.ndarray:
        """Return T' x V, fp32, for features T x C."""
        batch = self.batch([(features, torch.zeros(0, dtype=torch.int64))])
        return self._log_probs(batch)[:, 0].numpy()

    @torch.no_grad()
    def loss(self, features: Sequence[Tensor], units: Sequence[Tensor]) -> float:
        """Return the CTC loss in bits per unit; an utterance with too few frames for its units counts as 0."""
        batches = self.batches(features, units)
        total = sum(float(self.loss_of(batch)) for batch in batches)
        return total / math.log(2) / max(1, sum(int(batch.lengths.sum()) for batch in batches))

    def loss_of(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Sum of the utterances' losses, in nats; a generator draws the dropout, and None drops nothing."""
        log_probs = self._log_probs(batch, generator)
        frames = self._frames(batch)
        return F.ctc_loss(log_probs, batch.units, frames, batch.lengths, BLANK, "sum", zero_infinity=True)

    def batches(self, features: Sequence[Tensor], units: Sequence[Tensor]) -> list[Batch]:
        """Batches of utterances of similar length, without those that have no frames or no labels."""
        usable = [index for index in range(len(features)) if len(features[index]) and len(units[index])]
        order = sorted(usable, key=lambda index: len(features[index]))
        parts = [order[first : first + _UTTERANCES] for first in range(0, len(order), _UTTERANCES)]
        return [self.batch([(features[index], units[index]) for index in part]) for part in parts]

    def batch(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Batch:
        rows = [(found.float() - self.mean) / self.scale for found, _ in pairs]
        return Batch(
            pad_sequence(rows, batch_first=True).transpose(1, 2).contiguous(),
            torch.tensor([len(row) for row in rows]),
            torch.cat([labels for _, labels in pairs]),
            torch.tensor([len(labels) for _, labels in pairs]),
        )

    def _frames(self, batch: Batch) -> Tensor:
        return (batch.frames + 1) // 2 if self.form.hidden else batch.frames

    def _log_probs(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """T' x B x V."""
        x = self._dropped(batch.features, generator)
        if self.form.hidden:
            inside = (torch.arange((x.size(2) + 1) // 2) < self._frames(batch).unsqueeze(1)).unsqueeze(1)
            first, first_bias, second, second_bias = self.weights[:4]
            x = F.conv1d(x, first, first_bias, stride=2, padding=_KERNEL // 2)
            x = self._dropped(_normed(x) * inside, generator)
            x = F.conv1d(x, second, second_bias, padding=_DILATION * (_KERNEL // 2), dilation=_DILATION)
            x = self._dropped(_normed(x), generator)
        return F.log_softmax(F.conv1d(x, self.weights[-2], self.weights[-1]), dim=1).permute(2, 0, 1)

    def _dropped(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        kept = 1 - self.form.dropout
        if generator is None or kept == 1:
            return x
        return x * torch.empty_like(x).bernoulli_(kept, generator=generator) / kept


def _normed(x: Tensor) -> Tensor:
    """Normalise the channels of each frame, B x C x T, after a ReLU."""
    return F.layer_norm(x.relu().transpose(1, 2), (x.size(1),)).transpose(1, 2)


def train_reader(
    features: Sequence[Tensor], units: Sequence[Tensor], num_symbols: int, form: Form, seed: int
) -> Reader:
    """Train with Adam; torch's own random state is neither read nor changed.

    Args:
        features: T x C per utterance, of any floating-point type.
        units: U per utterance, int64; above 0, which is the blank.
        num_symbols: V, the blank included.
        seed: of initial weights, dropout, and the order of batches.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, scale = _moments(features)
    reader = Reader(form, mean, scale, _initial(len(mean), num_symbols, form, generator))
    batches = reader.batches(features, units)
    optimizer = torch.optim.Adam(reader.weights, lr=form.rate)
    updates, done = form.passes * len(batches), 0
    with torch.enable_grad():
        for _ in range(form.passes):
            for number in torch.randperm(len(batches), generator=generator).tolist():
                loss = reader.loss_of(batches[number], generator) / int(batches[number].lengths.sum())
                for weight, gradient in zip(reader.weights, torch.autograd.grad(loss, reader.weights), strict=True):
                    weight.grad = gradient
                torch.nn.utils.clip_grad_norm_(reader.weights, _LARGEST_NORM)
                done += 1
                optimizer.param_groups[0]["lr"] = form.rate * min(1.0, done / _WARM_UP) * (1 - (done - 1) / updates)
                optimizer.step()
    reader.weights = [weight.detach() for weight in reader.weights]
    return reader


def _initial(channels: int, num_symbols: int, form: Form, generator: torch.Generator) -> list[Tensor]:
    """Weights and biases; the last layer's are 0, so that training starts at equal probabilities."""
    shapes = [(form.hidden, channels, _KERNEL), (form.hidden, form.hidden, _KERNEL)] if form.hidden else []
    weights: list[Tensor] = []
    for out, width, kernel in shapes:
        weights.append(torch.randn(out, width, kernel, generator=generator) * math.sqrt(2 / (width * kernel)))
        weights.append(torch.zeros(out))
    weights += [torch.zeros(num_symbols, form.hidden or channels, 1), torch.zeros(num_symbols)]
    return [weight.requires_grad_() for weight in weights]


def _moments(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, C; a channel that never changes has deviation 1."""
    count = sum(len(found) for found in features)
    mean = torch.stack([found.double().sum(dim=0) for found in features]).sum(dim=0) / count
    square = torch.stack([(found.double() - mean).square().sum(dim=0) for found in features]).sum(dim=0) / count
    scale = square.sqrt()
    return mean.float(), torch.where(scale > 1e-6, scale, 1.0).float()
