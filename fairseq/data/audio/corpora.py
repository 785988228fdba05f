"""Several corpora in one data set: their shares of an epoch, and which rows of a batch belong to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch

from fairseq.data.batch import Batch


@dataclass(frozen=True)
class Corpora:
    """Which corpus each manifest of a data set belongs to; batches then say what they have of each."""

    of_manifests: tuple[int, ...]  # numbers of the corpora
    count: int  # K: corpora of the task, also those that this data set does not have

    def noted(self, batch: Batch, manifests: np.ndarray) -> Batch:
        """Return a batch with its rows' corpora.

        Args:
            manifests: the manifest of each row that counts.
        """
        corpora = np.asarray(self.of_manifests)[manifests]
        membership = torch.zeros(len(batch["id"]), self.count)
        membership[torch.arange(len(corpora)), torch.from_numpy(corpora)] = 1
        padding = batch["net_input"].get("padding_mask")
        if padding is None:
            lengths = np.full(len(corpora), batch["net_input"]["source"].size(1))
        else:
            lengths = (~padding[: len(corpora)]).sum(dim=1).numpy()
        fields = {
            "corpora": membership,
            "corpus_utterances": np.bincount(corpora, minlength=self.count).tolist(),
            "corpus_samples": np.bincount(corpora, lengths, minlength=self.count).astype(np.int64).tolist(),
        }
        return cast(Batch, {**batch, **fields})


class Amounts(NamedTuple):
    """What a data set has of each manifest."""

    utterances: np.ndarray  # int64
    samples: np.ndarray  # int64: of these utterances, after cropping


def amounts(offsets: np.ndarray, lines: np.ndarray, lengths: np.ndarray) -> Amounts:
    """Count utterances and samples by manifest.

    Args:
        offsets: first line of each manifest, and the number of all lines.
        lines: lines of the utterances, in order.
        lengths: samples of the utterances, as batches hold them.
    """
    bounds = np.searchsorted(lines, offsets)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return Amounts(np.diff(bounds), np.diff(ends[bounds]))


class Share(NamedTuple):
    """How much a manifest contributes to an epoch."""

    hours: float  # of its utterances, after cropping
    utterances: float  # share of the utterances of an epoch
    audio: float  # share of the audio of an epoch


def shares(of: Amounts, weights: Sequence[float] | None, sample_rate: int) -> list[Share]:
    """Return how much each manifest contributes to an epoch of training.

    Args:
        weights: shares of the utterances; None: each utterance is used once.
    """
    drawn = np.where(of.utterances > 0, of.utterances if weights is None else np.asarray(weights), 0).astype(float)
    audio = drawn * of.samples / np.maximum(1, of.utterances)
    columns = of.samples / sample_rate / 3600, drawn / max(drawn.sum(), 1e-9), audio / max(audio.sum(), 1e-9)
    return [Share(*map(float, row)) for row in zip(*columns, strict=True)]


def weights_by_alpha(of: Amounts, alpha: float) -> list[float] | None:
    """Return the shares of utterances with which the audio of manifest i is proportional to its own audio ** alpha.

    Args:
        alpha: 1: as it is; 0: as much audio of each.
    Returns:
        shares of an epoch's utterances, with sum 1; None for alpha 1, where each is used once.
    Source: Babu et al. 2021 (XLS-R), section 3: p ~ (n / N) ** alpha, with n hours of a language.
    """
    if alpha == 1:
        return None
    there = of.samples > 0
    own = of.samples[there] / of.samples.sum()
    wanted = np.zeros(len(of.samples))
    # audio / mean length = utterances
    wanted[there] = own**alpha * of.utterances[there] / of.samples[there]
    return (wanted / wanted.sum()).tolist()
