"""`fairseq-segment`: find the speech in long recordings, and write a manifest of segments cut at pauses.

    fairseq-segment recordings/train.tsv --dest segments
    fairseq-segment recordings/train.tsv --dest segments --min 2 --max 25 --pad 0.1 --workers 8 --json

No audio is copied: a segment is a line path<TAB>frames<TAB>first sample. After an interruption, rerun the command and
it continues.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

from fairseq.corpora.cuts.segmenting import Segmented, segment
from fairseq.corpora.cuts.settings import CutSettings
from fairseq.device.base import available_cores
from fairseq.inference.progress import Progress
from fairseq_cli import command


def get_parser() -> argparse.ArgumentParser:
    defaults = CutSettings()
    parser = argparse.ArgumentParser(prog="fairseq-segment", description=command.summary(__doc__))
    parser.add_argument("manifest", help="manifest of the recordings; it can have segments itself")
    parser.add_argument("--dest", required=True, help="folder for the manifest of segments, of the same name")
    lengths = {
        "--min": ("shortest", "shortest segment in seconds; shorter speech is joined with its neighbours or left out"),
        "--max": ("longest", "longest segment in seconds; longer speech is cut at its best place"),
        "--pad": ("pad", "seconds kept before and after the speech of a segment"),
        "--join": ("join", "longest pause within a segment in seconds; a longer one is always cut"),
        "--threshold": ("threshold", "probability from which 32 ms of audio are speech"),
    }
    for option, (field, text) in lengths.items():
        default = getattr(defaults, field)
        parser.add_argument(
            option, dest=field, type=float, default=default, metavar="X", help=f"{text} (default: {default:g})"
        )
    parser.add_argument(
        "--target", type=float, metavar="X", help="best length of a segment in seconds (default: 0.6 of --max)"
    )
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser


def main(args: argparse.Namespace) -> Segmented:
    """Write the manifest of segments that `args` ask for.

    Raises:
        ValueError: as `segment`, or the settings contradict each other.
    """
    if args.workers < 1:
        raise ValueError(f"--workers is {args.workers}. It must be at least 1.")
    settings = CutSettings(args.shortest, args.longest, args.target, args.pad, args.join, args.threshold)
    with Progress("finding speech", 0, "recordings", bar=False) as progress:

        def advance(done: int, total: int) -> None:
            progress.done, progress.total = done, total
            progress.tick()

        return segment(os.fspath(args.manifest), os.fspath(args.dest), settings, args.workers, advance)


def report(result: Segmented, args: argparse.Namespace, seconds: float) -> int:
    """Print the result; returns the exit status, 1 if there were unreadable recordings."""
    if args.json:
        facts = {"manifest": result.manifest, "done_before": result.done_before, "seconds": round(seconds, 1)}
        print(json.dumps({**facts, **result.summary.to_dict(result.names)}))
    else:
        print(result.summary.table(args.shortest))
        print(f"manifest: {result.manifest}")
    return 1 if result.summary.errors else 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    began = time.perf_counter()
    return command.run(lambda: report(main(args), args, time.perf_counter() - began), "fairseq-segment")


if __name__ == "__main__":
    sys.exit(cli_main())
