"""`fairseq-data-report`: what is in a corpus, and what is wrong with it: findings first, with the lines to look at.

fairseq-data-report data/train.tsv --valid data/valid.tsv --html report.html --json report.json
fairseq-data-report data/train.tsv --decode none
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence

from fairseq.checkpoint import atomic
from fairseq.corpora.report.batches import BatchSettings
from fairseq.corpora.report.corpus import SPEAKER
from fairseq.corpora.report.page import data_page
from fairseq.corpora.report.records import ERROR
from fairseq.corpora.report.report import DECODE, ReportSettings, make_report
from fairseq.corpora.report.terminal import as_json, as_text
from fairseq.device.base import available_cores
from fairseq.inference.progress import Progress
from fairseq.pages import assets
from fairseq_cli import command

INTERRUPTED = 130  # the exit status that shells give to Ctrl-C


def get_parser() -> argparse.ArgumentParser:
    batches = BatchSettings()
    parser = argparse.ArgumentParser(prog="fairseq-data-report", description=command.summary(__doc__))
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="manifests of training data")
    parser.add_argument("--valid", nargs="+", default=[], metavar="MANIFEST", help="manifests of validation data")
    parser.add_argument("--html", metavar="FILE", help="write a page with plots, which opens without a network")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--decode",
        choices=DECODE,
        default="all",
        help="utterances to decode: all, a sample of 2,000, or none: headers only (default: all)",
    )
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="processes (default: one per core)"
    )
    parser.add_argument(
        "--speaker-pattern",
        default=SPEAKER,
        metavar="REGEX",
        help="regular expression whose first group is the speaker in a path of the manifest (default: LibriSpeech's "
        "names); a NAME.jsonl of fairseq-pack takes precedence",
    )
    group = parser.add_argument_group("batches", "what training would make of the data; the keys of its config")
    group.add_argument("--max-tokens", type=int, default=batches.max_tokens, metavar="SAMPLES")
    group.add_argument("--max-sample-size", type=int, default=batches.max_sample_size, metavar="SAMPLES")
    group.add_argument("--min-sample-size", type=int, default=batches.min_sample_size, metavar="SAMPLES")
    group.add_argument("--num-batch-buckets", type=int, default=batches.num_batch_buckets, metavar="N")
    return parser


def settings_of(args: argparse.Namespace) -> ReportSettings:
    """Return the settings that the arguments ask for.

    Raises:
        ValueError: an argument is out of range, or a package is missing.
    """
    if args.workers < 1:
        raise ValueError(f"--workers is {args.workers}; it must be at least 1.")
    try:
        groups = re.compile(args.speaker_pattern).groups
    except re.error as error:
        raise ValueError(f"--speaker-pattern {args.speaker_pattern!r} is not a regular expression: {error}.") from error
    if groups < 1:
        raise ValueError(f"--speaker-pattern {args.speaker_pattern!r} has no group: put the speaker in parentheses.")
    for name, path in (("--html", args.html), ("--json", args.json)):
        _check_output(name, path)
    if args.html:
        assets.check()
    return ReportSettings(
        tuple(args.manifests),
        tuple(args.valid),
        args.decode,
        args.workers,
        args.speaker_pattern,
        BatchSettings(args.max_tokens, args.max_sample_size, args.min_sample_size, args.num_batch_buckets),
    )


def _check_output(name: str, path: str | None) -> None:
    """Raise ValueError if a file cannot be written: better now than after hours of decoding."""
    if not path:
        return
    folder = os.path.dirname(path) or os.curdir
    if os.path.isdir(path):
        raise ValueError(f"{name} {path} is a folder; it must be a file.")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(f"{name} {path} cannot be written: {folder} is not a folder that you may write to.")


def main(args: argparse.Namespace) -> int:
    """Make the report, print it, and write the files; returns the exit status: 1 if there is an error among the data.

    Raises:
        ValueError, OSError: wrong arguments, a malformed manifest, or a file cannot be written.
    """
    report = make_report(settings_of(args), Progress)
    print(as_text(report))
    _write(args.json, lambda: json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n")
    _write(args.html, lambda: data_page(report))
    return 1 if report.count(ERROR) else 0


def _write(path: str | None, text: Callable[[], str]) -> None:
    if not path:
        return
    content = text().encode("utf-8", "backslashreplace")

    def write(disk: atomic.Disk) -> None:
        disk.write(content)

    atomic.write(path, write)
    print(f"written: {path}")


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    try:
        return command.run(lambda: main(args), "fairseq-data-report")
    except KeyboardInterrupt:
        print("fairseq-data-report: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(cli_main())
