"""fairseq's data sets around other data sets: ConcatDataset, BaseWrapperDataset, SubsampleDataset; and
TextCompressor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fairseq.data import BaseWrapperDataset, ConcatDataset, FairseqDataset, SubsampleDataset
from fairseq.data.multi_corpus_dataset import MultiCorpusDataset
from fairseq.data.text_compressor import TextCompressionLevel, TextCompressor


class Numbers(FairseqDataset):
    """Samples that are (name, index), of given sizes."""

    def __init__(self, name: str, sizes: list[int]) -> None:
        self.name, self.sizes, self.epoch = name, np.array(sizes), 0

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.name, int(index)

    def __len__(self) -> int:
        return len(self.sizes)

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    num_tokens = size

    def collater(self, samples: list[Any]) -> dict[str, Any]:
        return {"by": self.name, "samples": samples}

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def test_concatenated_data_sets_follow_each_other() -> None:
    a, b = Numbers("a", [5, 3]), Numbers("b", [4])
    joined = ConcatDataset([a, b])
    assert len(joined) == 3 and [joined[i] for i in range(3)] == [("a", 0), ("a", 1), ("b", 0)]
    assert joined.sizes.tolist() == [5, 3, 4] and joined.ordered_indices().tolist() == [1, 2, 0]
    assert [joined.size(i) for i in range(3)] == [5, 3, 4] and joined.num_tokens(2) == 4
    assert joined.attr("name", 2) == "b" and joined.attr("nothing", 0) is None
    assert joined.collater([joined[2]]) == {"by": "a", "samples": [("b", 0)]}
    joined.set_epoch(7)
    assert a.epoch == b.epoch == 7 and joined.can_reuse_epoch_itr_across_epochs


def test_concatenated_data_sets_may_be_repeated() -> None:
    joined = ConcatDataset([Numbers("a", [5, 3]), Numbers("b", [4])], sample_ratios=[1, 3])
    assert joined.cumulative_sizes == [2, 5] and [joined[i] for i in (2, 3, 4)] == [("b", 0)] * 3
    assert joined.sizes.tolist() == [5, 3, 4, 4, 4]
    assert len(ConcatDataset([Numbers("a", [5, 3])], sample_ratios=2)) == 4
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])


def test_concatenated_pairs_are_ordered_by_source_then_target() -> None:
    pairs = Numbers("pairs", [0, 0, 0])
    pairs.sizes = np.array([[2, 9], [1, 5], [2, 3]])
    assert ConcatDataset([pairs]).ordered_indices().tolist() == [1, 2, 0]


def test_a_wrapper_answers_as_what_is_inside() -> None:
    inner = Numbers("a", [5, 3])
    outer = BaseWrapperDataset(inner)
    assert len(outer) == 2 and outer[1] == ("a", 1) and outer.size(0) == 5 and outer.num_tokens(1) == 3
    assert outer.sizes is inner.sizes and outer.collater([1]) == {"by": "a", "samples": [1]}
    kept, left = outer.filter_indices_by_size(np.array([0, 1]), 4)
    assert kept.tolist() == [1] and left == [0]
    outer.set_epoch(3)
    assert inner.epoch == 3


def test_a_share_of_a_data_set_is_drawn_by_its_seed() -> None:
    inner = Numbers("a", list(range(10, 21)))
    part = SubsampleDataset(inner, size_ratio=0.3, seed=1)
    # numpy's RandomState(1): choice of 4 of 11 without replacement, as fairseq 0.12.2 draws it
    assert part.indices.tolist() == np.random.RandomState(1).choice(11, 4, replace=False).tolist()
    assert len(part) == 4 and part[0] == ("a", int(part.indices[0])) and part.size(1) == 10 + part.indices[1]
    assert part.sizes.tolist() == (10 + part.indices).tolist() and part.name == "a"
    assert part.sizes[part.ordered_indices()].tolist() == sorted(part.sizes.tolist())
    kept, left = part.filter_indices_by_size(np.arange(4), 15)
    assert (
        [part.size(i) <= 15 for i in kept] == [True] * len(kept)
        and all(part.size(i) > 15 for i in left)
        and len(kept) + len(left) == 4
    )
    with pytest.raises(ValueError, match="size_ratio is 1"):
        SubsampleDataset(inner, size_ratio=1)


class Named(Numbers):
    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        return {"from": self.name, "id": int(index)}


def mixed(shares: list[float], **options: Any) -> MultiCorpusDataset:
    corpora = {"a": Named("a", [3, 1, 2]), "b": Named("b", [9] * 5), "c": Named("c", [7, 7])}
    return MultiCorpusDataset(corpora, shares, seed=1, **options)


def test_corpora_are_mixed_by_their_shares() -> None:
    dataset = mixed([0.2, 0.5, 0.3])
    counts = np.bincount([{"a": 0, "b": 1, "c": 2}[dataset[i]["from"]] for i in dataset.ordered_indices()])
    assert len(dataset) == 10 and counts.tolist() == [2, 5, 3]  # of the two of c, each once and one of them again
    assert len(set(dataset.ordered_indices().tolist())) == 9
    assert dataset[8] == {"from": "c", "id": 0, "full_id": 8} and dataset.num_tokens(1) == 1 and dataset.size(8) == 7
    assert dataset.collater([dataset[8]])["by"] == "c" and dataset.collater([]) is None
    assert dataset.sizes.tolist() == [3, 1, 2, 9, 9, 9, 9, 9, 7, 7]
    with pytest.raises(ValueError, match="index 10"):
        dataset.size(10)


def test_what_is_drawn_is_a_function_of_seed_and_epoch() -> None:
    dataset = mixed([0.2, 0.5, 0.3])
    first = dataset.ordered_indices().tolist()
    assert dataset.ordered_indices().tolist() == first and not dataset.can_reuse_epoch_itr_across_epochs
    dataset.set_epoch(2)
    assert dataset.ordered_indices().tolist() != first


def test_a_share_of_nothing_leaves_a_corpus_out() -> None:
    dataset = mixed([0.5, 0.5, 0])
    assert len(dataset) == 8 and max(dataset.ordered_indices()) < 8 and len(dataset.ordered_indices()) == 8
    sizes = [
        mixed([1, 0, 0], sort_indices=True).num_tokens(i) for i in mixed([1, 0, 0], sort_indices=True).ordered_indices()
    ]
    assert sizes == [1, 2, 3]
    with pytest.raises(ValueError, match="sum 1"):
        mixed([0.5, 0.1, 0.1])


def test_batches_of_one_corpus() -> None:
    dataset = mixed([0.2, 0.5, 0.3], batch_sample=True)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=2)
    assert sum(map(len, batches)) == 10 and all(len({dataset[i]["from"] for i in batch}) == 1 for batch in batches)


@pytest.mark.parametrize("level", [TextCompressionLevel.none, TextCompressionLevel.low])
def test_texts_come_back(level: TextCompressionLevel) -> None:
    compressor = TextCompressor(level)
    assert (
        isinstance(compressor.compress("größe.flac"), bytes)
        and compressor.decompress(compressor.compress("größe.flac")) == "größe.flac"
    )


def test_what_needs_a_package_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="use TextCompressionLevel.low"):
        TextCompressor(TextCompressionLevel.high)
