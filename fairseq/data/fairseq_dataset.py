"""What the package's data sets have in common, by fairseq's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.utils.data


class EpochListening:
    """Is told when an epoch begins."""

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """fairseq: whether an EpochBatchIterator may be kept over epochs. Here it always is: it plans each epoch
        anew.
        """
        return True

    def set_epoch(self, epoch: int) -> None:
        """An epoch begins."""


class FairseqDataset(torch.utils.data.Dataset, EpochListening):
    """Utterances with sizes."""

    sizes: np.ndarray  # samples of each utterance

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of what `__getitem__` returned."""
        raise NotImplementedError

    def num_tokens(self, index: int) -> int:
        """Samples that an utterance counts for in `dataset.max_tokens`: its size, or the largest of several."""
        return int(np.max(self.size(index)))

    def size(self, index: int) -> int:
        """Samples of an utterance, for filters."""
        raise NotImplementedError

    def ordered_indices(self) -> np.ndarray:
        """Indices in the order of batching."""
        return np.arange(len(self), dtype=np.int64)

    def filter_indices_by_size(
        self, indices: np.ndarray, max_sizes: int | float | Sequence[int | float] | None
    ) -> tuple[np.ndarray, list[int]]:
        """(indices up to the largest size, the others); with several largest sizes the first, the source's, counts."""
        if max_sizes is None:
            return indices, []
        largest = max_sizes if isinstance(max_sizes, (int, float)) else max_sizes[0]
        fits = np.asarray(self.sizes)[indices] <= largest
        return indices[fits], indices[~fits].tolist()
