"""The interface of a data set that the engine relies on. `plugged_in` adapts data sets with fairseq's interface."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from fairseq.data.batch import Batch
from fairseq.data.batching import Batches, BatchPlan
from fairseq.data.options import BatchLimits
from fairseq.masks.settings import Masks


class AudioDataset(Protocol):
    """Utterances, the plan of an epoch's batches, and the batches themselves.

    `batches` is a function of seed, epoch and limits, and `collate_plan` of seed and plan: neither depends on the
    process or worker that calls it.
    """

    seed: int  # with epoch and index, the key of an utterance's crop and masks
    makes_filler: bool  # whether `collate_plan` can create a batch of rows that do not count

    def __len__(self) -> int: ...

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch."""
        ...

    def set_masks(self, masks: Masks | None) -> None:
        """Draw masks with these settings from now on; None: batches without masks."""
        ...

    def batches(self, epoch: int, limits: BatchLimits) -> Batches:
        """Split an epoch into batches.

        Raises:
            ValueError: the limits allow no batch.
        """
        ...

    def total_samples(self, batches: Batches, epoch: int) -> int:
        """Return the samples in an epoch's batches, without padding and filler."""
        ...

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """Create the batch of a plan; called in a data-loading worker.

        Raises:
            ValueError: a user's mistake, such as a file with another sample rate.
        """
        ...

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: int) -> tuple[np.ndarray, list[int]]:
        """Return (indices of utterances of at most this many samples, the remaining indices)."""
        ...

    def size(self, index: int) -> int:
        """Return the number of samples of an utterance."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A data set that can begin to fetch the audio of later batches."""

    def expect_plan(self, plan: BatchPlan) -> None:
        """Begin to fetch the audio of a plan that `collate_plan` will get soon; called in the same worker."""
        ...
