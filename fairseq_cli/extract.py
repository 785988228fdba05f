"""`fairseq-extract`: features or codes of a manifest's files, with the time of each frame, to .npy or .parquet.

    fairseq-extract DATA --path CHECKPOINT --gen-subset train --feature 8 --output-dir features
    fairseq-extract DATA --path CHECKPOINT --feature codes --feature 11 --format parquet --num-workers 4 --output-dir
    features

Files that already exist are kept: after an interruption, rerun the command and it continues.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq.inference import feature_files
from fairseq.inference.extraction import Extracted, Extraction, extract_all
from fairseq.inference.features import NAMED
from fairseq_cli import command


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-extract", description=command.summary(__doc__))
    parser.add_argument("data", help="folder of the manifest")
    parser.add_argument("--path", required=True, help="checkpoint, pre-trained or fine-tuned")
    command.add_dictionary(parser)
    parser.add_argument("--gen-subset", default="train", help="name of the manifest (default: train)")
    parser.add_argument(
        "--feature",
        action="append",
        help=f"number of a block (0: the first), or {', '.join(NAMED)}; can be repeated (default: context)",
    )
    parser.add_argument(
        "--output-dir", required=True, help="folder for the features, with the manifest's relative paths"
    )
    parser.add_argument("--format", choices=feature_files.KINDS, default="npy", help="default: npy")
    parser.add_argument("--num-workers", type=int, default=1, help="processes, each with its own model (default: 1)")
    command.add_device_and_precision(parser, "fp32", "default: fp32")
    command.add_windows(parser)
    return parser


def main(args: argparse.Namespace) -> Extracted:
    """Extract the features that `args` select.

    Raises:
        ValueError: as `extract_all`, or invalid windows.
    """
    extraction = Extraction(
        data=args.data,
        checkpoint=os.fspath(args.path),
        output=Path(args.output_dir),
        subset=args.gen_subset,
        features=tuple(args.feature or ["context"]),
        kind=args.format,
        dictionary=args.dict,
        device=args.device,
        precision=args.precision,
        windows=command.windows_of(args),
    )
    return extract_all(extraction, args.num_workers)


def report(result: Extracted) -> int:
    """Print the result as JSON; returns the exit status, 1 if there were errors in files."""
    print(json.dumps(result._asdict()))
    return 1 if result.errors else 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    return command.run(lambda: report(main(args)), "fairseq-extract")


if __name__ == "__main__":
    sys.exit(cli_main())
