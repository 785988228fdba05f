"""The mean of several checkpoints' weights: `fairseq-average-checkpoints --inputs FILES --output FILE`, with
fairseq's arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq import checkpoint_utils
from fairseq.checkpoint import io
from fairseq.models.wav2vec import pretrained

BY_EPOCH, BY_UPDATES, BEST = (
    r"checkpoint(\d+)\.pt",
    r"checkpoint_\d+_(\d+)\.pt",
    r"checkpoint\.best_[a-z_]+?_(-?\d+\.?\d*)\.pt",
)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-average-checkpoints", description=__doc__)
    parser.add_argument(
        "--inputs", required=True, nargs="+", metavar="PATH", help="checkpoints, or with one of --num-* their folder"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the checkpoint to write; it has the first input's other entries",
    )
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--num-epoch-checkpoints", type=int, metavar="N", help="the last N of checkpointE.pt")
    number.add_argument("--num-update-checkpoints", type=int, metavar="N", help="the last N of checkpoint_E_U.pt")
    number.add_argument(
        "--num-best-checkpoints", type=int, default=0, metavar="N", help="the best N of checkpoint.best_METRIC_VALUE.pt"
    )
    parser.add_argument("--maximize", action="store_true", help="with --num-best-checkpoints: larger values are better")
    parser.add_argument(
        "--checkpoint-upper-bound",
        type=int,
        metavar="N",
        help="none after epoch N (with --num-update-checkpoints: update N)",
    )
    return parser


def chosen(args: argparse.Namespace) -> list[str]:
    """The checkpoints to average.

    Raises:
        ValueError: arguments that do not go together, or fewer files than asked for.
    """
    wanted = args.num_epoch_checkpoints or args.num_update_checkpoints or args.num_best_checkpoints
    if not wanted:
        if args.checkpoint_upper_bound is not None:
            raise ValueError("--checkpoint-upper-bound needs --num-epoch-checkpoints or --num-update-checkpoints")
        return args.inputs
    if len(args.inputs) != 1 or not os.path.isdir(args.inputs[0]):
        raise ValueError("--num-*-checkpoints choose among the files of a folder: --inputs must be that folder")
    pattern = BY_EPOCH if args.num_epoch_checkpoints else BY_UPDATES if args.num_update_checkpoints else BEST
    found = checkpoint_utils.checkpoint_paths(args.inputs[0], pattern, keep_match=True)
    if pattern == BEST:
        found = found if args.maximize else found[::-1]
    elif args.checkpoint_upper_bound is not None:
        found = [(path, number) for path, number in found if number <= args.checkpoint_upper_bound]
    if len(found) < wanted:
        raise ValueError(f"{args.inputs[0]} has {len(found)} such checkpoints, {wanted} are asked for")
    return [path for path, _ in found[:wanted]]


def average_checkpoints(inputs: Sequence[str]) -> dict[str, Any]:
    """The first checkpoint, with the mean of all inputs' weights as "model".

    Sums are fp64; a mean has the type of the first checkpoint's weight, fp32 for half precision; whole numbers are
    rounded down.

    Raises:
        ValueError: a file cannot be read, has other weights than the first, or another dictionary: the rows of its
            output layer would then mean other symbols.
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
            raise ValueError(f"{path} and {inputs[0]} have different weights: {', '.join(differing[:5])}")
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
        f"{path} and {first_path} have different dictionaries: symbol {row} is {theirs[row]!r} and {ours[row]!r}. "
        "The rows of their output layers mean different symbols, so their mean means nothing. Average checkpoints of "
        "one run."
    )


def _as(mean: Tensor, dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        return mean.floor().to(dtype)
    return mean.to(torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    try:
        inputs = chosen(args)
        print("averaging:", *inputs, sep="\n  ")
        checkpoint_utils.torch_persistent_save(average_checkpoints(inputs), args.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(cli_main())
