"""`fairseq-probe`: quality of pre-trained checkpoints, with a few minutes of transcribed speech, or without any.

    fairseq-probe CHECKPOINT [CHECKPOINT ...] --data LABELLED --labels ltr
    fairseq-probe CHECKPOINT [CHECKPOINT ...] --data UNLABELLED

LABELLED has train.tsv, train.ltr and, for the test, valid.tsv and valid.ltr; ten minutes of speech are enough. A small
CTC model is trained on frozen features. Without labels, codes are compared with codes in noise.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence

from fairseq.data.audio.manifest import Manifest
from fairseq.evaluation.probe import unlabelled
from fairseq.evaluation.probe.labelled import Labelled, has_labels, label_file, read_labelled
from fairseq.evaluation.probe.layers import depths
from fairseq.evaluation.probe.probing import ProbeSettings, probe
from fairseq.evaluation.probe.results import Row, ScoreRow, describe, describe_scores, row_of, score_row_of
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq_cli import command

logger = logging.getLogger("fairseq_cli.probe")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-probe", description=command.summary(__doc__))
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoints to compare")
    parser.add_argument("--data", required=True, help="folder of the manifests, and labels if there are any")
    parser.add_argument("--labels", default="ltr", help="extension of the label files: ltr (default), phn, wrd")
    parser.add_argument(
        "--no-labels", action="store_true", help="use the score without labels, even if there are label files"
    )
    parser.add_argument(
        "--train-subset",
        default="train",
        help="manifest to train the probe on; without labels, the speech that is scored (default: train)",
    )
    parser.add_argument(
        "--valid-subset",
        help="manifest to test the probe on (default: valid, or if it has no labels, a fifth of the training manifest)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help="of speech to train on, and half as much to test on; without labels, of the speech that is scored "
        "(default: 10)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of utterances, noise, the probe and the interval")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_device_and_precision(parser, "fp32", "default: fp32")
    command.add_windows(parser)
    return parser


def main(args: argparse.Namespace) -> list[Row] | list[ScoreRow]:
    """Probe each checkpoint, or score it if there are no labels; returns rows in the order of the command line.

    Raises:
        ValueError: a checkpoint, manifest, label file or audio file cannot be read; an argument is wrong; a checkpoint
            without a codebook is scored without labels.
    """
    if not args.minutes > 0:
        raise ValueError(f"--minutes is {args.minutes:g}; it must be above 0")
    if args.no_labels:
        return score_all(args)
    if not has_labels(args.data, args.train_subset, args.labels):
        if args.valid_subset is not None:
            raise ValueError(
                f"{label_file(args.data, args.train_subset, args.labels)} does not exist. Name the labels with "
                "--labels; without labels, leave --valid-subset out"
            )
        logger.info("%s does not exist: scoring without labels", label_file(args.data, args.train_subset, args.labels))
        return score_all(args)
    return probe_all(args)


def probe_all(args: argparse.Namespace) -> list[Row]:
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


def score_all(args: argparse.Namespace) -> list[ScoreRow]:
    manifest = Manifest(os.path.join(args.data, f"{args.train_subset}.tsv"))
    windows, rows = command.windows_of(args), []
    for path in args.checkpoints:
        model = SpeechModel.load(path, args.device, args.precision, {"data": args.data})
        chosen = unlabelled.choose(manifest, args.minutes, args.seed, model.sample_rate)
        began = time.process_time()
        with Progress(f"scoring {os.path.basename(path)}", len(chosen), "utterances") as progress:
            score = unlabelled.code_score(model, manifest, chosen, windows, args.seed, progress.advance)
        rows.append(score_row_of(path, model, score, time.process_time() - began))
    return rows


def _steps(model: SpeechModel, data: Labelled) -> int:
    """Utterances to extract, and probes to train."""
    return len(data.training) + len(data.held_out) + len(depths(model)) + 1


def report(rows: Sequence[Row] | Sequence[ScoreRow], as_json: bool) -> int:
    if as_json:
        print(json.dumps(rows))
    else:
        labelled, scored = [row for row in rows if "cer" in row], [row for row in rows if "information" in row]
        print("\n".join(describe(labelled) if labelled else describe_scores(scored)))
    return 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    command.set_up_logging()
    return command.run(lambda: report(main(args), args.json), "fairseq-probe")


if __name__ == "__main__":
    sys.exit(cli_main())
