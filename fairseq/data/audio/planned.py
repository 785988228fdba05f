"""The plans of a data set of audio: an epoch's order and batches, from lengths alone. No audio is read here."""

from __future__ import annotations

import logging

import numpy as np

from fairseq.data.audio.augment import Augmentation
from fairseq.data.batching import EVALUATION_EPOCH, Batches, inverse, make_batches, sorted_by
from fairseq.data.buckets import bucket_shapes, get_buckets
from fairseq.data.fairseq_dataset import FairseqDataset
from fairseq.data.options import BatchLimits
from fairseq.frames import receptive_field
from fairseq.masks.settings import Masks

logger = logging.getLogger(__name__)

ORDER = 1  # third number of the key of the utterance order; the batch order uses another


class PlannedAudio(FairseqDataset):
    """Utterances with lengths, their order and their batches; `RawAudioDataset` describes and sets the attributes."""

    sizes: np.ndarray
    buckets: np.ndarray  # int64: the lengths of batches, ascending
    max_sample_size: int
    shuffle: bool
    pad: bool
    seed: int
    epoch: int
    num_buckets: int
    masks: Masks | None
    augmentation: Augmentation | None
    least_samples: np.ndarray | None
    _warned_too_short: bool

    def lengths(self, indices: np.ndarray, epoch: int) -> np.ndarray:
        """Return the samples of these utterances (or copies) in an epoch, after cropping and speed change."""
        own = self._own(indices)
        sizes = self.sizes[own]
        np.minimum(sizes, self.max_sample_size, out=sizes)
        if self.augmentation is None or epoch == EVALUATION_EPOCH:
            return sizes
        return self._allowed(self.augmentation.lengths(sizes, indices, self.seed, epoch), own)

    def length_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (shortest, longest) possible length of every utterance in training."""
        sizes = np.minimum(self.sizes, self.max_sample_size)
        if self.augmentation is None:
            return sizes, sizes
        own = np.arange(len(self))
        shortest, longest = self.augmentation.range_of(sizes)
        return self._allowed(shortest, own), self._allowed(longest, own)

    def _allowed(self, lengths: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Clip lengths to the largest batch shape, and to the minimum for one frame and for the label."""
        longest = int(self.buckets[-1]) if len(self.buckets) else self.max_sample_size
        least = (
            self._shortest() if self.least_samples is None else np.maximum(self.least_samples[own], self._shortest())
        )
        return np.clip(lengths, np.minimum(least, self.sizes[own]), longest)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def set_masks(self, masks: Masks | None) -> None:
        """Draw masks with these settings from now on; None: batches without masks."""
        self.masks = masks

    def set_bucket_info(self, num_buckets: int) -> None:
        """Round batch lengths up to `num_buckets` quantiles of the utterances' lengths; 0: no buckets.

        Raises:
            ValueError: there are buckets, but no padding.
        """
        self.num_buckets = num_buckets
        if num_buckets == 0:
            return
        if not self.pad:
            raise ValueError(
                f"task.num_batch_buckets={num_buckets} requires task.enable_padding=true. Set "
                "task.enable_padding=true, or num_batch_buckets=0."
            )
        if len(self):
            self.buckets = get_buckets(np.minimum(self.sizes, self.max_sample_size), num_buckets)
            logger.info("%d bucket(s) for the audio: %s samples", len(self.buckets), self.buckets.tolist())

    # -- order and batches ---------------------------------------------------------------------------------------------

    def sample(self, epoch: int) -> np.ndarray:
        """Return an epoch's indices; those from len(self) are copies of utterances, with their own crops and masks."""
        return np.arange(len(self), dtype=np.int64)

    def ordered_indices(self) -> np.ndarray:
        """Return indices in batching order, longest first; a function of the seed and the epoch of `set_epoch`."""
        return self._order(self.epoch)

    def _order(self, epoch: int) -> np.ndarray:
        indices = self._long_enough(self.sample(epoch))
        if not self.shuffle:
            return indices
        if epoch == EVALUATION_EPOCH:
            tie_break = np.arange(len(indices))[::-1]
        else:
            tie_break = np.random.default_rng([self.seed, epoch, ORDER]).permutation(len(indices))
        if self.num_buckets:  # all rows of a bucket are padded to one length: no need to sort within it
            return indices[inverse(tie_break)]
        return indices[sorted_by(self.lengths(indices, epoch), tie_break)[::-1]]

    def _own(self, indices: np.ndarray) -> np.ndarray:
        """Return the utterances that indices are copies of."""
        return indices if indices.max(initial=0) < len(self) else indices % max(1, len(self))

    def _long_enough(self, indices: np.ndarray) -> np.ndarray:
        """Remove utterances that are too short for a single frame."""
        if self.masks is None:
            return indices
        shortest = self._shortest()
        long_enough = self.sizes[self._own(indices)] >= shortest
        if long_enough.all():
            return indices
        kept = indices[long_enough]
        if not self._warned_too_short:
            self._warned_too_short = True
            logger.warning(
                "utterances skipped because they are shorter than the model's receptive field of %d samples: %d",
                shortest,
                len(indices) - len(kept),
            )
        return kept

    def _shortest(self) -> int:
        return receptive_field(self.masks.conv_layers)[0] if self.masks is not None else 1

    def batches(self, epoch: int, limits: BatchLimits) -> Batches:
        """Split an epoch into batches; a function of (seed, epoch) and the limits.

        Args:
            epoch: the epoch; EVALUATION_EPOCH gives the same batches each time.
            limits: the size limits.
        Raises:
            ValueError: the limits allow no batch.
        """
        order = self._order(epoch)
        if limits.max_size is not None:
            order = order[self.sizes[self._own(order)] <= limits.max_size]
        shapes = bucket_shapes(self.buckets, limits) if self.num_buckets else None
        # otherwise the slowest speed of an utterance could exceed the limit only in a later epoch
        if self.augmentation is not None and epoch != EVALUATION_EPOCH and len(order):
            limits.check(int(self.length_range()[1][self._own(order)].max()))
        return make_batches(self.lengths(order, epoch), order, limits, self.pad, shapes)

    def total_samples(self, batches: Batches, epoch: int) -> int:
        """Return the samples in an epoch's batches, without padding and filler."""
        return int(
            np.minimum(
                self.lengths(batches.indices, epoch), np.repeat(batches.lengths, np.diff(batches.ends, prepend=0))
            ).sum()
        )
