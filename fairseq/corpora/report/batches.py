"""The batches that training would make of a corpus, planned by the code that plans them in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fairseq.data.audio.raw_audio_dataset import RawAudioDataset
from fairseq.data.options import BatchLimits


@dataclass(frozen=True)
class BatchSettings:
    """The settings that batches depend on; the values are those of wav2vec2_base_librispeech."""

    max_tokens: int = 1_400_000  # dataset.max_tokens: samples
    max_sample_size: int = 250_000  # task.max_sample_size: longer utterances are cropped
    min_sample_size: int = 32_000  # task.min_sample_size: shorter utterances are left out
    num_batch_buckets: int = 0  # task.num_batch_buckets; above 0, batches are padded (task.enable_padding)

    def check(self) -> None:
        """Raise ValueError if no batch can be made with these settings."""
        if self.max_sample_size > self.max_tokens:
            raise ValueError(
                f"--max-tokens is {self.max_tokens:,}, less than --max-sample-size ({self.max_sample_size:,}). "
                "An utterance must fit into a batch: raise one, or lower the other."
            )
        for name in ("max_tokens", "max_sample_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        if self.min_sample_size > self.max_sample_size:
            raise ValueError(
                f"--min-sample-size is {self.min_sample_size:,}, more than --max-sample-size "
                f"({self.max_sample_size:,})."
            )
        if self.num_batch_buckets < 0:
            raise ValueError(f"--num-batch-buckets is {self.num_batch_buckets}; it must be at least 0.")


class BatchSummary(NamedTuple):
    """An epoch of training in numbers."""

    batches: int
    utterances: int
    left_out: int  # shorter than min_sample_size
    cropped: int  # longer than their batch: the rest is not used in this epoch
    lost: float  # share of the audio that is cropped
    padding: float  # share of the samples in batches that is padding or filler rows
    rows: tuple[int, float, int]  # utterances of a batch: least, mean, most
    samples: tuple[int, float, int]  # of audio in a batch: least, mean, most
    shapes: int


class _Lengths(RawAudioDataset):
    """Utterances of which only the lengths are known."""

    def __init__(self, sizes: np.ndarray, settings: BatchSettings, sample_rate: int) -> None:
        super().__init__(
            sample_rate,
            max_sample_size=settings.max_sample_size,
            min_sample_size=settings.min_sample_size,
            pad=settings.num_batch_buckets > 0,
        )
        self.sizes = sizes[sizes >= self.min_sample_size]
        self.set_bucket_info(settings.num_batch_buckets)


def plan(sizes: np.ndarray, settings: BatchSettings, sample_rate: int) -> BatchSummary | None:
    """Plan the first epoch; None if every utterance is left out.

    Args:
        sizes: samples of every utterance, int64.
        settings: see BatchSettings.
        sample_rate: Hz.
    """
    dataset = _Lengths(sizes, settings, sample_rate)
    if len(dataset) == 0:
        return None
    batches = dataset.batches(1, BatchLimits(max_tokens=settings.max_tokens))
    rows = np.diff(batches.ends, prepend=0)
    used, emitted = dataset.total_samples(batches, 1), int((batches.rows * batches.lengths).sum())
    own = dataset.sizes[batches.indices]
    cropped = int((own > np.repeat(batches.lengths, rows)).sum())
    volumes = rows * batches.lengths
    return BatchSummary(
        batches=len(batches),
        utterances=len(dataset),
        left_out=len(sizes) - len(dataset),
        cropped=cropped,
        lost=1 - used / int(own.sum()),
        padding=1 - used / emitted,
        rows=(int(rows.min()), float(rows.mean()), int(rows.max())),
        samples=(int(volumes.min()), float(volumes.mean()), int(volumes.max())),
        shapes=len(np.unique(np.stack([batches.rows, batches.lengths]), axis=1).T),
    )
