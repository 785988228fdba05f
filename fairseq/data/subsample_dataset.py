"""A random subset of a data set."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from fairseq.data.base_wrapper_dataset import BaseWrapperDataset
from fairseq.data.data_utils import numpy_seed

logger = logging.getLogger(__name__)


class SubsampleDataset(BaseWrapperDataset):
    """A random share of a data set's samples, drawn once. For a training manifest, set task.subsample instead.

    Args:
        dataset: the whole data set.
        size_ratio: the share to keep, above 0 and below 1; the number of samples is rounded up.
        shuffle: order samples of equal size randomly; otherwise in the order of the draw.
        seed: seed of the draw; None: use the current state of numpy's global generator.
    Raises:
        ValueError: size_ratio is not above 0 and below 1.
    """

    def __init__(self, dataset: Any, size_ratio: float, shuffle: bool = False, seed: int | None = None) -> None:
        super().__init__(dataset)
        if not 0 < size_ratio < 1:
            raise ValueError(f"size_ratio is {size_ratio}; it must be above 0 and below 1.")
        self.actual_size = int(np.ceil(len(dataset) * size_ratio))
        with numpy_seed(seed):
            self.indices = np.random.choice(len(dataset), self.actual_size, replace=False)
        self.shuffle = shuffle
        logger.info("subsampled dataset from %d to %d (ratio=%s)", len(dataset), self.actual_size, size_ratio)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return self.actual_size

    @property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        return np.asarray(self.dataset.sizes)[self.indices]

    @property
    def name(self) -> str:
        return self.dataset.name

    def num_tokens(self, index: int) -> int:
        return self.dataset.num_tokens(self.indices[index])

    def size(self, index: int) -> Any:
        return self.dataset.size(self.indices[index])

    def ordered_indices(self) -> np.ndarray:
        """Return indices into this data set sorted by size, shortest first."""
        tie_break = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        return np.lexsort((tie_break, self.sizes))

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> tuple[np.ndarray, list[int]]:
        # skip BaseWrapperDataset's version, which would use the wrapped data set's sizes
        return super(BaseWrapperDataset, self).filter_indices_by_size(indices, max_sizes)

    def prefetch(self, indices: Any) -> None:
        self.dataset.prefetch(self.indices[indices])
