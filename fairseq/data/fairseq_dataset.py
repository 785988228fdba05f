"""Base classes of the package's data sets, under fairseq's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.utils.data


class EpochListening:
    """Receives the start of an epoch."""

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """fairseq: whether an EpochBatchIterator can be reused. Here always True: it plans each epoch separately."""
        return True

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch."""


class FairseqDataset(torch.utils.data.Dataset, EpochListening):
    """Utterances with sizes."""

    sizes: np.ndarray  # samples of each utterance

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate results of `__getitem__` into a batch."""
        raise NotImplementedError

    def num_tokens(self, index: int) -> int:
        """Return the samples of an utterance for `dataset.max_tokens`: its size, or the largest of several sizes."""
        return int(np.max(self.size(index)))

    def size(self, index: int) -> int:
        """Return the number of samples of an utterance, for filters."""
        raise NotImplementedError

    def ordered_indices(self) -> np.ndarray:
        """Return indices in batching order."""
        return np.arange(len(self), dtype=np.int64)

    def filter_indices_by_size(
        self, indices: np.ndarray, max_sizes: int | float | Sequence[int | float] | None
    ) -> tuple[np.ndarray, list[int]]:
        """Return (indices within the maximum size, the rest); of several maxima, the first (the source's) applies."""
        if max_sizes is None:
            return indices, []
        largest = max_sizes if isinstance(max_sizes, (int, float)) else max_sizes[0]
        fits = np.asarray(self.sizes)[indices] <= largest
        return indices[fits], indices[~fits].tolist()
