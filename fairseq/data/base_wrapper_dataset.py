"""Base class of data sets that wrap another data set and change part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from fairseq.data.fairseq_dataset import FairseqDataset


class BaseWrapperDataset(FairseqDataset):
    """A data set that passes every call on to the data set it wraps.

    Args:
        dataset: the wrapped data set.
    """

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def collater(self, samples: list[Any]) -> Any:
        return self.dataset.collater(samples) if hasattr(self.dataset, "collater") else default_collate(samples)

    @property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        return self.dataset.sizes

    def num_tokens(self, index: int) -> int:
        return self.dataset.num_tokens(index)

    def size(self, index: int) -> Any:
        return self.dataset.size(index)

    def ordered_indices(self) -> np.ndarray:
        return self.dataset.ordered_indices()

    def filter_indices_by_size(
        self, indices: np.ndarray, max_sizes: int | float | Sequence[int | float] | None
    ) -> tuple[np.ndarray, list[int]]:
        return self.dataset.filter_indices_by_size(indices, max_sizes)

    def attr(self, attr: str, index: int) -> Any:
        return self.dataset.attr(attr, index)

    @property
    def supports_prefetch(self) -> bool:
        return getattr(self.dataset, "supports_prefetch", False)

    def prefetch(self, indices: Any) -> None:
        self.dataset.prefetch(indices)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return self.dataset.can_reuse_epoch_itr_across_epochs

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
