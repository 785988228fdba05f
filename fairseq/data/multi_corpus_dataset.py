"""Mix data sets by shares, drawn again each epoch. For manifests, use task.multi_corpus_keys instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairseq.data.data_utils import batch_by_size, numpy_seed
from fairseq.data.fairseq_dataset import FairseqDataset


class MultiCorpusDataset(FairseqDataset):
    """A mix of data sets of one kind; an epoch has as many samples as all of them together.

    Args:
        datasets: data sets by name, in order, whose samples are dicts.
        distribution: share of each data set in an epoch, sum 1; a data set with share 0 is not used.
        seed: with the epoch, the key of the random draws.
        sort_indices: order samples from short to long; otherwise randomly.
        batch_sample: take all samples of a batch from one data set.
        distributed_rank: ignored, for fairseq's callers.
    Raises:
        ValueError: the number of shares differs from the number of data sets, or their sum is not 1.
    """

    def __init__(
        self,
        datasets: Mapping[str, Any],
        distribution: Sequence[float],
        seed: int,
        sort_indices: bool = False,
        batch_sample: bool = False,
        distributed_rank: int | None = None,
    ) -> None:
        super().__init__()
        if len(datasets) != len(distribution) or abs(sum(distribution) - 1) > 1e-6:
            raise ValueError(
                f"distribution is {list(distribution)}; it must have one share for each of {list(datasets)}, with "
                "sum 1."
            )
        self.datasets, self.distribution, self.seed = dict(datasets), list(distribution), seed
        self.sort_indices, self.batch_sample, self.epoch = sort_indices, batch_sample, 1
        shares = zip(self.datasets.values(), self.distribution, strict=True)
        self.num_instances_per_dataset = [0 if share == 0 else len(dataset) for dataset, share in shares]
        ends = np.cumsum(self.num_instances_per_dataset).tolist()
        self.total_num_instances, self.dataset_offsets = ends[-1], [0, *ends[:-1]]

    def __len__(self) -> int:
        return self.total_num_instances

    def _map_index(self, index: int) -> tuple[int, str]:
        """Return (index within its data set, name of the data set)."""
        for begin, size, name in zip(self.dataset_offsets, self.num_instances_per_dataset, self.datasets, strict=True):
            if begin <= index < begin + size:
                return index - begin, name
        raise ValueError(f"index {index} is out of range; it must be from 0 to {self.total_num_instances - 1}.")

    def __getitem__(self, index: int) -> dict[str, Any]:
        own, name = self._map_index(index)
        return {**self.datasets[name][own], "full_id": index}

    def collater(self, samples: list[dict[str, Any]]) -> Any:
        """Collate samples with the data set of the first one."""
        if not samples:
            return None
        name = self._map_index(samples[0]["full_id"])[1] if "full_id" in samples[0] else next(iter(self.datasets))
        return self.datasets[name].collater(samples)

    def num_tokens(self, index: int) -> int:
        own, name = self._map_index(index)
        return self.datasets[name].num_tokens(own)

    def size(self, index: int) -> Any:
        own, name = self._map_index(index)
        return self.datasets[name].size(own)

    @property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        counts = zip(self.datasets.values(), self.num_instances_per_dataset, strict=True)
        return np.concatenate([np.asarray(dataset.sizes)[:count] for dataset, count in counts])

    def ordered_indices(self) -> np.ndarray:
        """Return an epoch's indices: whole copies of each data set as its share allows, the rest drawn at random."""
        total, drawn = self.total_num_instances, []
        with numpy_seed(self.seed, self.epoch):
            remaining, last = total, max(i for i, size in enumerate(self.num_instances_per_dataset) if size)
            for i, (begin, size) in enumerate(zip(self.dataset_offsets, self.num_instances_per_dataset, strict=True)):
                if size == 0:
                    continue
                wanted = remaining if i == last else int(self.distribution[i] * total)
                remaining -= wanted
                drawn += [
                    np.tile(np.arange(size), wanted // size) + begin,
                    np.random.permutation(size)[: wanted % size] + begin,
                ]
            indices = np.random.permutation(np.concatenate(drawn))
        if self.sort_indices:
            indices = indices[np.argsort([self.num_tokens(i) for i in indices], kind="stable")]
        return indices.astype(np.int64)

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Split indices into batches; with `batch_sample`, separately for each data set."""
        parts = [np.asarray(indices)]
        if self.batch_sample:
            names = np.array([self._map_index(i)[1] for i in indices])
            parts = [parts[0][names == name] for name in self.datasets if (names == name).any()]
        return [
            b
            for part in parts
            for b in batch_by_size(part, self.num_tokens, None, max_tokens, max_sentences, required_batch_size_multiple)
        ]

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return False

    def set_epoch(self, epoch: int, **unused: Any) -> None:
        self.epoch = epoch

    @property
    def supports_prefetch(self) -> bool:
        return False
