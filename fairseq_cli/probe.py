"""`fairseq-probe`: quality of pre-trained checkpoints, by a small CTC model on their frozen features.

    fairseq-probe CHECKPOINT [CHECKPOINT ...] --data LABELLED --labels ltr

LABELLED has train.tsv, train.ltr and, for the test, valid.tsv and valid.ltr; ten minutes of speech are enough.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from fairseq.evaluation.probe.labelled import Labelled, read_labelled
from fairseq.evaluation.probe.layers import depths
from fairseq.evaluation.probe.probing import ProbeSettings, probe
from fairseq.evaluation.probe.results import Row, describe, row_of
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq_cli import command

logger = logging.getLogger("fairseq_cli.probe")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-probe", description=command.summary(__doc__))
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoints to compare")
    parser.add_argument("--data", required=True, help="folder of the manifests of transcribed speech, and their labels")
    parser.add_argument("--labels", default="ltr", help="extension of the label files: ltr (default), phn, wrd")
    parser.add_argument("--train-subset", default="train", help="manifest to train the probe on (default: train)")
    parser.add_argument(
        "--valid-subset",
        help="manifest to test the probe on (default: valid, or if it has no labels, a fifth of the training manifest)",
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of speech to train on; half as much to test on (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the utterances drawn, the probe and the interval")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_device_and_precision(parser, "fp32", "default: fp32")
    command.add_windows(parser)
    return parser


def main(args: argparse.Namespace) -> list[Row]:
    """Probe each checkpoint; returns a row for each, in the order of the command line.

    Raises:
        ValueError: a checkpoint, manifest, label file or audio file cannot be read; an argument is wrong.
    """
    if not args.minutes > 0:
        raise ValueError(f"--minutes is {args.minutes:g}; it must be above 0")
    settings = ProbeSettings(seed=args.seed, windows=command.windows_of(args))
    rows: list[Row] = []
    for path in args.checkpoints:
        model = SpeechModel.load(path, args.device, args.precision, {"data": args.data})
        data = read_labelled(
            args.data, args.labels, args.train_subset, args.valid_subset, args.minutes, args.seed, model.sample_rate
        )
        if not rows:
            logger.info("speech: %s, on %s", data.describe(), model.describe())
        with Progress(f"probing {os.path.basename(path)}", _steps(model, data), "steps") as progress:
            rows.append(row_of(path, model, probe(model, data, settings, progress.advance)))
    return rows


def _steps(model: SpeechModel, data: Labelled) -> int:
    """Utterances to extract, and probes to train."""
    return len(data.training) + len(data.held_out) + len(depths(model)) + 1


def report(rows: Sequence[Row], as_json: bool) -> int:
    print(json.dumps(rows) if as_json else "\n".join(describe(rows)))
    return 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    return command.run(lambda: report(main(args), args.json), "fairseq-probe")


if __name__ == "__main__":
    sys.exit(cli_main())
