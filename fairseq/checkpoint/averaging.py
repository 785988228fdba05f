"""The mean of several checkpoints' weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq.checkpoint import io
from fairseq.models.wav2vec import pretrained


def average_checkpoints(inputs: Sequence[str]) -> dict[str, Any]:
    """Return the first checkpoint with the mean of all inputs' weights as "model".

    Sums are in fp64. Each mean has the dtype of the first checkpoint's weight, or fp32 for half precision; integers are
    rounded down.

    Raises:
        ValueError: a file cannot be read, or its weights or its dictionary differ from the first one's.
    """
    first: dict[str, Any] = {}
    sums: dict[str, Tensor] = {}
    for path in inputs:
        state = io.load(path)
        weights = state["model"]
        if not first:
            first = state
            sums = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in weights.items()}
        _same_dictionary(first, state, inputs[0], path)
        differing = sorted(set(sums) ^ set(weights)) or [
            name for name in sums if sums[name].shape != weights[name].shape
        ]
        if differing:
            raise ValueError(
                f"{path} and {inputs[0]} have different weights: {', '.join(differing[:5])}. Average checkpoints of "
                "one run."
            )
        for name, tensor in weights.items():
            sums[name] += tensor.double()
    model = {name: _as(total / len(inputs), first["model"][name].dtype) for name, total in sums.items()}
    return {**first, "model": model}


def _same_dictionary(first: dict[str, Any], state: dict[str, Any], first_path: str, path: str) -> None:
    ours, theirs = pretrained.symbols_of(first), pretrained.symbols_of(state)
    if ours is None or theirs is None or ours == theirs:
        return
    if len(ours) != len(theirs):
        raise ValueError(
            f"{path} and {first_path} have different dictionaries: {len(theirs)} and {len(ours)} symbols. Average "
            "checkpoints of one run."
        )
    row = next(row for row, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise ValueError(
        f"{path} and {first_path} have different dictionaries: symbol {row} is {theirs[row]!r} and {ours[row]!r}, so "
        "the rows of their output layers do not correspond. Average checkpoints of one run."
    )


def _as(mean: Tensor, dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        return mean.floor().to(dtype)
    return mean.to(torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)
