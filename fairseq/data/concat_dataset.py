"""Concatenate data sets."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from fairseq.data.fairseq_dataset import FairseqDataset


class ConcatDataset(FairseqDataset):
    """Concatenation of data sets; the first one's collater is used for all samples.

    Args:
        datasets: at least one data set.
        sample_ratios: how often each is repeated: one integer for all, or one per data set.
    Raises:
        ValueError: `datasets` is empty.
    """

    def __init__(self, datasets: Iterable[Any], sample_ratios: int | Sequence[int] = 1) -> None:
        super().__init__()
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("datasets is empty; it must have at least one data set.")
        self.sample_ratios = (
            [sample_ratios] * len(self.datasets) if isinstance(sample_ratios, int) else list(sample_ratios)
        )
        self.cumulative_sizes = self.cumsum(self.datasets, self.sample_ratios)
        self.real_sizes = [len(dataset) for dataset in self.datasets]

    @staticmethod
    def cumsum(sequence: Sequence[Any], sample_ratios: Sequence[int]) -> list[int]:
        """Return the end of each data set in the concatenation."""
        return np.cumsum(
            [int(ratio * len(dataset)) for dataset, ratio in zip(sequence, sample_ratios, strict=True)]
        ).tolist()

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def _get_dataset_and_sample_index(self, idx: int) -> tuple[int, int]:
        dataset = bisect.bisect_right(self.cumulative_sizes, idx)
        begin = self.cumulative_sizes[dataset - 1] if dataset else 0
        return dataset, (idx - begin) % self.real_sizes[dataset]

    def __getitem__(self, idx: int) -> Any:
        dataset, sample = self._get_dataset_and_sample_index(idx)
        return self.datasets[dataset][sample]

    def collater(self, samples: list[Any], **extra_args: Any) -> Any:
        first = self.datasets[0]
        return first.collater(samples, **extra_args) if hasattr(first, "collater") else default_collate(samples)

    def size(self, idx: int) -> Any:  # type: ignore[override]  # fairseq's name of the argument
        dataset, sample = self._get_dataset_and_sample_index(idx)
        return self.datasets[dataset].size(sample)

    def num_tokens(self, index: int) -> int:
        return int(np.max(self.size(index)))

    def attr(self, attr: str, index: int) -> Any:
        """Return an attribute of the data set that a sample comes from; None if it does not exist."""
        return getattr(self.datasets[self._get_dataset_and_sample_index(index)[0]], attr, None)

    @property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        """Sizes of all samples, one row per sample."""
        own = [np.asarray(dataset.sizes) for dataset in self.datasets]
        repeats = zip(own, self.sample_ratios, strict=True)
        return np.concatenate([np.tile(sizes, (ratio, *(1,) * (sizes.ndim - 1))) for sizes, ratio in repeats])

    def ordered_indices(self) -> np.ndarray:
        """Return indices sorted by size, shortest first; several sizes per sample are compared in order."""
        sizes = self.sizes
        return np.argsort(sizes, kind="stable") if sizes.ndim == 1 else np.lexsort(sizes.T[::-1])

    @property
    def supports_prefetch(self) -> bool:
        return all(getattr(dataset, "supports_prefetch", False) for dataset in self.datasets)

    def prefetch(self, indices: Iterable[int]) -> None:
        places = [self._get_dataset_and_sample_index(index) for index in indices]
        for number, dataset in enumerate(self.datasets):
            if getattr(dataset, "supports_prefetch", False):
                dataset.prefetch([sample for owner, sample in places if owner == number])

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return all(dataset.can_reuse_epoch_itr_across_epochs for dataset in self.datasets)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        for dataset in self.datasets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
