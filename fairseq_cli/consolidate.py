"""Write a sharded checkpoint, a folder, as one checkpoint file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fairseq.checkpoint import io
from fairseq_cli import command


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-consolidate", description=__doc__)
    parser.add_argument("folder", help="the sharded checkpoint, such as checkpoints/checkpoint_last.shards")
    parser.add_argument("output", help="the checkpoint file to write; an older one of that name is replaced")
    return parser


def main(args: argparse.Namespace) -> int:
    print(f"written: {io.consolidate(args.folder, args.output)}")
    return 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    return command.run(lambda: main(args), "error")


if __name__ == "__main__":
    sys.exit(cli_main())
