"""fairseq's data functions that speech needs, under their names."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.data.batching import cut_batches
from fairseq.data.buckets import get_bucketed_sizes, get_buckets  # noqa: F401 - public here in fairseq
from fairseq.data.options import BatchLimits
from fairseq.dataclass.training_configs import split_names
from fairseq.masks.batch import compute_mask_indices  # noqa: F401 - public here in fairseq

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def numpy_seed(seed: int | None, *addl_seeds: int) -> Iterator[None]:
    """Run a block with numpy's global generator seeded by these integers, then restore it; None: do nothing."""
    if seed is None:
        yield
        return
    state = np.random.get_state()
    np.random.seed(np.random.SeedSequence([seed, *addl_seeds]).generate_state(1) if addl_seeds else seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def collate_tokens(
    values: Sequence[Tensor],
    pad_idx: int,
    eos_idx: int | None = None,
    left_pad: bool = False,
    move_eos_to_beginning: bool = False,
    pad_to_length: int | None = None,
    pad_to_multiple: int = 1,
    pad_to_bsz: int | None = None,
) -> Tensor:
    """Stack 1-D tensors of different lengths into B x L, padded with `pad_idx`.

    Args:
        eos_idx: first element with `move_eos_to_beginning`; None: each value's own last element.
    """
    length = max(pad_to_length or 0, max(v.size(0) for v in values))
    length += -length % pad_to_multiple
    out = values[0].new_full((max(len(values), pad_to_bsz or 0), length), pad_idx)
    for row, value in zip(out, values, strict=False):
        if move_eos_to_beginning:
            first = value[-1:] if eos_idx is None else value.new_full((1,), eos_idx)
            value = torch.cat([first, value[:-1]])
        offset = length - len(value) if left_pad else 0
        row[offset : offset + len(value)] = value
    return out


def lengths_to_padding_mask(lens: Tensor) -> Tensor:
    """Convert lengths, B, to a mask, B x max length, that is True at padding."""
    return torch.arange(int(lens.max()), device=lens.device) >= lens[:, None]


def lengths_to_mask(lens: Tensor) -> Tensor:
    """Convert lengths, B, to a mask, B x max length, that is True at valid positions."""
    return ~lengths_to_padding_mask(lens)


def batch_by_size(
    indices: Sequence[int] | np.ndarray,
    num_tokens_fn: Callable[[int], int] | None = None,
    num_tokens_vec: np.ndarray | None = None,
    max_tokens: int | None = None,
    max_sentences: int | None = None,
    required_batch_size_multiple: int = 1,
) -> list[np.ndarray]:
    """Split ordered indices into batches; see `fairseq.data.batching.cut_batches` for the rule.

    Args:
        num_tokens_fn: returns the length of an index; not used if `num_tokens_vec` is given.
        num_tokens_vec: length of every entry of `indices`.
    Raises:
        ValueError: neither is given, or the limits allow no batch.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if num_tokens_vec is None:
        if num_tokens_fn is None:
            raise ValueError("batch_by_size needs num_tokens_fn or num_tokens_vec, but neither is given.")
        num_tokens_vec = np.fromiter((num_tokens_fn(i) for i in indices.tolist()), dtype=np.int64, count=len(indices))
    limits = BatchLimits(max_tokens, max_sentences, required_batch_size_multiple)
    ends = cut_batches(np.asarray(num_tokens_vec, dtype=np.int64), limits)
    return np.split(indices, ends[:-1]) if len(ends) else []


def filter_by_size(
    indices: np.ndarray, dataset: Any, max_positions: int | float | Sequence[int | float], raise_exception: bool = False
) -> np.ndarray:
    """Remove samples longer than `max_positions` from `indices`, using `dataset.filter_indices_by_size`.

    Raises:
        ValueError: a sample is too long, and `raise_exception` is true.
    """
    kept, ignored = dataset.filter_indices_by_size(indices, max_positions)
    if len(ignored) and raise_exception:
        raise ValueError(
            f"sample {ignored[0]} has size {dataset.size(ignored[0])}; the maximum is {max_positions}. Set "
            "dataset.skip_invalid_size_inputs_valid_test=true to skip such samples."
        )
    if len(ignored):
        logger.warning(
            "%d samples are longer than %s and are skipped, first: %s", len(ignored), max_positions, list(ignored[:10])
        )
    return kept


_WORD_MARKS = {"sentencepiece": "\u2581", "wordpiece": "_", "letter": "|", "_EOW": "_EOW"}


def post_process(sentence: str, symbol: str | None) -> str:
    """Join a sentence's units into words; `symbol` is the kind of unit.

    Raises:
        ValueError: the kind of unit is unknown.
    """
    if symbol in _WORD_MARKS:
        return sentence.replace(" ", "").replace(_WORD_MARKS[symbol], " ").strip()
    if symbol == "silence":
        return re.sub(" +", " ", sentence.replace("<SIL>", "")).strip()
    if symbol in ("subword_nmt", "@@ ", "@@"):
        return (sentence + " ").replace("@@" if symbol == "@@" else "@@ ", "").rstrip()
    if symbol in (None, "none"):
        return sentence
    raise ValueError(
        f"post_process is {symbol!r}; it must be one of: {', '.join(_WORD_MARKS)}, silence, subword_nmt, @@, none."
    )


def raise_if_valid_subsets_unintentionally_ignored(train_cfg: Any) -> None:
    """Raise ValueError if the data folder has manifests valid1.tsv ... that the config neither uses nor ignores."""
    dataset = train_cfg.dataset
    if (
        dataset.ignore_unused_valid_subsets
        or dataset.combine_valid_subsets
        or dataset.disable_validation
        or "data" not in train_cfg.task
    ):
        return
    folder = train_cfg.task.data
    if not os.path.isdir(folder):
        return
    names = (name.removesuffix(".gz") for name in os.listdir(folder))
    found = {os.path.splitext(name)[0] for name in names if re.match(r"valid\d.*\.tsv$", name)}
    ignored = sorted(found - set(split_names(dataset.valid_subset)))
    if ignored:
        raise ValueError(
            f"dataset.valid_subset is {dataset.valid_subset!r}, but {folder} also has {', '.join(ignored)}. Add them "
            "to dataset.valid_subset, set dataset.combine_valid_subsets=true to join them, or set "
            "dataset.ignore_unused_valid_subsets=true to ignore them."
        )
