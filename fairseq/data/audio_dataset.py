"""What the engine asks of a data set. The package's own data sets answer it; `plugged_in` does for those of fairseq's
kind.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fairseq.data.batch import Batch
from fairseq.data.batching import Batches, BatchPlan
from fairseq.data.options import BatchLimits
from fairseq.masks.settings import Masks


class AudioDataset(Protocol):
    """Utterances, the plan of an epoch's batches, and the making of a batch.

    `batches` is a function of seed, epoch and limits, and `collate_plan` one of seed and plan: neither depends on the
    process or worker that calls it.
    """

    seed: int  # with epoch and index, the key of an utterance's crop and masks
    makes_filler: bool  # whether `collate_plan` can make a batch of rows that do not count

    def __len__(self) -> int: ...

    def set_epoch(self, epoch: int) -> None:
        """An epoch begins."""
        ...

    def set_masks(self, masks: Masks | None) -> None:
        """Draw masks by these settings from now on; None: make batches without masks."""
        ...

    def batches(self, epoch: int, limits: BatchLimits) -> Batches:
        """Cut an epoch into batches.

        Raises:
            ValueError: the limits allow no batch.
        """
        ...

    def total_samples(self, batches: Batches, epoch: int) -> int:
        """Samples that an epoch's batches hold, neither padding nor filler counted."""
        ...

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """Make the batch that a plan describes; called in a data-loading worker.

        Raises:
            ValueError: a mistake of the user's, such as files of another sample rate.
        """
        ...

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: int) -> tuple[np.ndarray, list[int]]:
        """(indices of utterances up to this many samples, the others)."""
        ...

    def size(self, index: int) -> int:
        """Samples of an utterance."""
        ...
