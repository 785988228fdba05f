"""`fairseq-infer`: transcribe or classify a manifest's utterances, and report error rates and their causes.

fairseq-infer DATA --path CHECKPOINT --gen-subset test
fairseq-infer DATA --path CHECKPOINT --gen-subset test --lexicon lexicon.txt --lm words.bin --tune dev
--results-path results
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fairseq.decoding.beam import BeamDecoder
from fairseq.evaluation import results
from fairseq.evaluation.classification import ClassificationResult
from fairseq.evaluation.error_rates import error_rates
from fairseq.evaluation.evaluation import Evaluation, tune_on
from fairseq.evaluation.explain import explain
from fairseq.evaluation.facts import gather_facts
from fairseq.evaluation.results import Files, Result
from fairseq.evaluation.testset import TestSet
from fairseq.inference.model import SpeechModel
from fairseq.utils import make_folder
from fairseq_cli import command, infer_classes, old_infer
from fairseq_cli.decoder_arguments import add_decoder_arguments, check_arguments, decoder_of, join_negative_values

logger = logging.getLogger("fairseq_cli.infer")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-infer", description=command.summary(__doc__))
    parser.add_argument("data", help="folder of the manifests and labels")
    parser.add_argument("--path", required=True, help="fine-tuned checkpoint")
    parser.add_argument("--gen-subset", default="test", help="name of the manifest (default: test)")
    parser.add_argument(
        "--labels", help="extension of the label files, or none for no labels (default: the checkpoint's)"
    )
    parser.add_argument(
        "--results-path",
        help="folder for hypo.word, hypo.units, ref.word, ref.units, hypo.jsonl and results.json; with a classifier, "
        "for scores.tsv, scores.jsonl and results.json",
    )
    parser.add_argument("--explain", action="store_true", help="report which known causes of bad results apply")
    add_decoder_arguments(parser)
    parser.add_argument("--tune", metavar="SUBSET", help="first tune lm_weight and word_score on this manifest")
    parser.add_argument("--speakers", help="file with the speaker of each utterance, one per line")
    parser.add_argument(
        "--speaker-pattern", help="regular expression whose first group matches the speaker in the manifest's paths"
    )
    parser.add_argument(
        "--bootstrap-draws",
        type=int,
        default=1000,
        help="bootstrap samples for the confidence intervals (default: 1000)",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the bootstrap (default: 1)")
    parser.add_argument(
        "--max-tokens", type=int, default=640000, help="audio samples in a batch, padding included (default: 640000)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON on a terminal too, as for a pipe or a file"
    )
    return parser


def main(args: argparse.Namespace) -> Result | ClassificationResult:
    """Transcribe, or classify if the checkpoint is a classifier, and evaluate.

    Returns:
        The result that is printed and written to results.json.

    Raises:
        ValueError: the checkpoint, a manifest, labels, a lexicon or a language model cannot be read or does not fit; an
            argument is wrong.
    """
    began = time.perf_counter()
    check_arguments(args)
    if args.results_path is not None:
        make_folder(args.results_path, "--results-path")
    logger.info("loading %s", args.path)
    model = SpeechModel.load(args.path, args.device, args.precision, {"data": args.data}, args.dict)
    if model.pooled is not None:
        return infer_classes.main(args, model)
    labels = None if args.labels == "none" else args.labels or model.task.cfg.labels
    testset = TestSet.read(args.data, args.gen_subset, labels, model.dictionary())
    speakers = testset.speakers(args.speakers, args.speaker_pattern)
    decoder = decoder_of(args, model)
    windows = command.windows_of(args)
    logger.info("%s: %d utterances, on %s", args.gen_subset, len(testset), model.describe())
    if args.tune is not None:
        if not isinstance(decoder, BeamDecoder) or labels is None:
            raise ValueError("--tune requires a lexicon or a language model (--lexicon, --lm), and labels")
        tune_on(
            model, TestSet.read(args.data, args.tune, labels, model.dictionary()), decoder, windows, args.max_tokens
        )
    evaluation = Evaluation.of(model, testset, decoder, windows, args.max_tokens)
    for reading in evaluation.readings[:3]:
        spoken = f" | reference: {testset.references[reading.index]}" if testset.references else ""
        logger.info("utterance %d: %s%s", reading.index, reading.hypotheses[0].text, spoken)
    rates = None
    if testset.references:
        rates = error_rates(testset, evaluation.readings, speakers, args.bootstrap_draws, args.seed)
    explanations = explain(gather_facts(evaluation)) if args.explain else None
    files = Files(os.fspath(args.path), args.lexicon, args.lm)
    result = results.result_of(evaluation, files, rates, explanations, time.perf_counter() - began)
    if args.results_path is not None:
        results.write_results(Path(args.results_path), evaluation, result)
    return result


def report(result: Result | ClassificationResult, args: argparse.Namespace, as_json: bool) -> int:
    """Print the result, as JSON with the figures in the log, or as text for a terminal; returns the exit status."""
    if "classes" in result:
        return infer_classes.report(result, args.bootstrap_draws, as_json)
    lines = results.describe(result, args.bootstrap_draws)
    if not as_json:
        print("\n".join(lines))
        return 0
    for line in lines:
        logger.info(line)
    print(json.dumps(result))
    return 0


def cli_main(argv: Sequence[str] | None = None) -> int:
    words = join_negative_values(sys.argv[1:] if argv is None else argv)
    advice = old_infer.new_command(words)
    if advice is not None:
        print(f"fairseq-infer: {advice}", file=sys.stderr)
        return 2
    args = get_parser().parse_args(words)
    command.set_up_logging()
    as_json = args.json or not sys.stdout.isatty()
    return command.run(lambda: report(main(args), args, as_json), "fairseq-infer")


if __name__ == "__main__":
    sys.exit(cli_main())
