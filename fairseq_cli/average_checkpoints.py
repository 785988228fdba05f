"""Average the weights of several checkpoints: `fairseq-average-checkpoints --inputs FILES --output FILE`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fairseq import checkpoint_utils
from fairseq.checkpoint.averaging import average_checkpoints
from fairseq.checkpoint.retention import ENDINGS
from fairseq_cli import command

BY_EPOCH = rf"checkpoint(\d+){ENDINGS}"
BY_UPDATES = rf"checkpoint_\d+_(\d+){ENDINGS}"
BEST = rf"checkpoint\.best_[a-z_]+?_(-?\d+\.?\d*){ENDINGS}"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-average-checkpoints", description=__doc__)
    parser.add_argument(
        "--inputs", required=True, nargs="+", metavar="PATH", help="checkpoints; with one of --num-*, their folder"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the checkpoint to write; its other entries are copied from the first input",
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
        help="use no checkpoint after epoch N (with --num-update-checkpoints: update N)",
    )
    return parser


def chosen(args: argparse.Namespace) -> list[str]:
    """The checkpoints to average.

    Raises:
        ValueError: arguments that do not go together, or too few files.
    """
    wanted = args.num_epoch_checkpoints or args.num_update_checkpoints or args.num_best_checkpoints
    if not wanted:
        if args.checkpoint_upper_bound is not None:
            raise ValueError("--checkpoint-upper-bound requires --num-epoch-checkpoints or --num-update-checkpoints")
        return args.inputs
    if len(args.inputs) != 1 or not os.path.isdir(args.inputs[0]):
        raise ValueError("--num-*-checkpoints select from the files of a folder: --inputs must be that folder")
    pattern = BY_EPOCH if args.num_epoch_checkpoints else BY_UPDATES if args.num_update_checkpoints else BEST
    found = checkpoint_utils.checkpoint_paths(args.inputs[0], pattern, keep_match=True)
    if pattern == BEST:
        found = found if args.maximize else found[::-1]
    elif args.checkpoint_upper_bound is not None:
        found = [(path, number) for path, number in found if number <= args.checkpoint_upper_bound]
    if len(found) < wanted:
        raise ValueError(f"{args.inputs[0]} has {len(found)} such checkpoints, but {wanted} are requested")
    return [path for path, _ in found[:wanted]]


def main(args: argparse.Namespace) -> int:
    """Write the average of the checkpoints that `args` select."""
    inputs = chosen(args)
    print("averaging:", *inputs, sep="\n  ")
    checkpoint_utils.torch_persistent_save(average_checkpoints(inputs), args.output)
    print(f"written: {args.output}")
    return 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    return command.run(lambda: main(args), "error")


if __name__ == "__main__":
    sys.exit(cli_main())
