"""fairseq's data helpers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fairseq.data import data_utils


def test_numpy_seed_puts_the_state_back() -> None:
    np.random.seed(0)
    expected = np.random.rand(2)
    np.random.seed(0)
    np.random.rand()
    with data_utils.numpy_seed(5, 6):
        inside = np.random.rand()
    assert np.random.rand() == expected[1]
    with data_utils.numpy_seed(5, 6):
        assert np.random.rand() == inside
    with data_utils.numpy_seed(5, 7):
        assert np.random.rand() != inside


def test_collate_tokens() -> None:
    values = [torch.tensor([4, 5, 2]), torch.tensor([6, 2])]
    assert data_utils.collate_tokens(values, 1).tolist() == [[4, 5, 2], [6, 2, 1]]
    assert data_utils.collate_tokens(values, 1, left_pad=True).tolist() == [[4, 5, 2], [1, 6, 2]]
    assert data_utils.collate_tokens(values, 1, eos_idx=2, move_eos_to_beginning=True).tolist() == [
        [2, 4, 5],
        [2, 6, 1],
    ]
    assert data_utils.collate_tokens(values, 1, pad_to_multiple=4, pad_to_bsz=3).tolist() == [
        [4, 5, 2, 1],
        [6, 2, 1, 1],
        [1, 1, 1, 1],
    ]


def test_lengths_to_masks() -> None:
    padding = data_utils.lengths_to_padding_mask(torch.tensor([3, 1]))
    assert padding.tolist() == [[False, False, False], [False, True, True]]
    assert (data_utils.lengths_to_mask(torch.tensor([3, 1])) == ~padding).all()


def test_buckets_are_quantiles_that_occur() -> None:
    sizes = np.array([10, 20, 30, 40, 50, 60, 70, 80, 90, 100])
    buckets = data_utils.get_buckets(sizes, 3)
    assert buckets.tolist() == [40, 70, 100]
    assert data_utils.get_bucketed_sizes(sizes, buckets).tolist() == [40] * 4 + [70] * 3 + [100] * 3
    assert data_utils.get_buckets(np.full(5, 7), 4).tolist() == [7]


def test_batch_by_size() -> None:
    batches = data_utils.batch_by_size([5, 3, 8, 1], num_tokens_fn=lambda i: i, max_tokens=10)
    assert [batch.tolist() for batch in batches] == [[5, 3], [8], [1]]
    assert data_utils.batch_by_size([], num_tokens_fn=lambda i: i, max_tokens=10) == []


def test_filter_by_size() -> None:
    def split(indices: np.ndarray, most: int) -> tuple[np.ndarray, list[int]]:
        return indices[indices <= most], indices[indices > most].tolist()

    dataset = SimpleNamespace(filter_indices_by_size=split, size=int)
    assert data_utils.filter_by_size(np.arange(6), dataset, 3).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="skip_invalid_size_inputs_valid_test"):
        data_utils.filter_by_size(np.arange(6), dataset, 3, raise_exception=True)


@pytest.mark.parametrize(
    "symbol, sentence, words",
    [
        ("letter", "H I | T H E R E |", "HI THERE"),
        ("sentencepiece", "\u2581he llo \u2581you", "hello you"),
        ("wordpiece", "_he llo _you", "hello you"),
        ("_EOW", "he llo _EOW you _EOW", "hello you"),
        ("silence", "a <SIL> b", "a b"),
        ("@@ ", "hel@@ lo you", "hello you"),
        ("subword_nmt", "hel@@ lo you", "hello you"),
        ("none", "as it is", "as it is"),
        (None, "as it is", "as it is"),
    ],
)
def test_post_process(symbol: str | None, sentence: str, words: str) -> None:
    assert data_utils.post_process(sentence, symbol) == words


def test_post_process_names_what_it_knows() -> None:
    with pytest.raises(ValueError, match="letter"):
        data_utils.post_process("a b", "leter")


def test_unused_validation_manifests_are_noticed(tmp_path) -> None:
    for name in ("train", "valid", "valid1"):
        (tmp_path / f"{name}.tsv").write_text("/\n")
    dataset = {
        "valid_subset": "valid",
        "ignore_unused_valid_subsets": False,
        "combine_valid_subsets": None,
        "disable_validation": False,
    }
    cfg = OmegaConf.create({"task": {"data": str(tmp_path)}, "dataset": dataset})
    with pytest.raises(ValueError, match="valid1"):
        data_utils.raise_if_valid_subsets_unintentionally_ignored(cfg)
    cfg.dataset.ignore_unused_valid_subsets = True
    data_utils.raise_if_valid_subsets_unintentionally_ignored(cfg)
