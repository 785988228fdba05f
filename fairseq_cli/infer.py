"""`fairseq-infer`: recognise a manifest's utterances, and say how many errors there are and why.

fairseq-infer DATA --path CHECKPOINT --gen-subset test
fairseq-infer DATA --path CHECKPOINT --gen-subset test --lexicon lexicon.txt --lm words.bin --tune dev
--results-path results
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.decoding.beam import BeamDecoder
from fairseq.inference import evaluate, explain, recognise
from fairseq.inference.facts import gather_facts
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.inference.recognise import Reading
from fairseq.inference.statistics import OutputStatistics
from fairseq.inference.testset import TestSet
from fairseq.inference.tuning import tune
from fairseq.inference.windows import WindowSettings
from fairseq.scoring.wer import word_errors
from fairseq.utils import make_folder
from fairseq_cli import old_infer
from fairseq_cli.decoder_arguments import (
    add_decoder_arguments,
    check_arguments,
    decoder_of,
    join_negative_values,
    set_up_logging,
)

logger = logging.getLogger("fairseq_cli.infer")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-infer", description=__doc__.split("\n")[0].split(": ", 1)[1])
    parser.add_argument("data", help="folder of the manifests and labels")
    parser.add_argument("--path", required=True, help="fine-tuned checkpoint")
    parser.add_argument("--gen-subset", default="test", help="name of the manifest (default: test)")
    parser.add_argument("--labels", help="extension of the label files; none: no labels (default: the checkpoint's)")
    parser.add_argument(
        "--results-path", help="folder for hypo.word, hypo.units, ref.word, ref.units, hypo.jsonl and results.json"
    )
    parser.add_argument("--explain", action="store_true", help="say which of the known causes of a bad result fits")
    add_decoder_arguments(parser)
    parser.add_argument("--tune", metavar="SUBSET", help="find lm_weight and word_score on this manifest first")
    parser.add_argument("--speakers", help="file with the speaker of each utterance, a line each")
    parser.add_argument(
        "--speaker-pattern", help="regular expression whose first group is the speaker in the manifest's paths"
    )
    parser.add_argument(
        "--bootstrap-draws", type=int, default=1000, help="test sets drawn for the intervals (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of these draws (default: 1)")
    parser.add_argument(
        "--max-tokens", type=int, default=640000, help="samples of a batch, padding included (default: 640000)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON on a terminal too, as into a pipe or a file"
    )
    return parser


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Recognise and evaluate as `args` say; returns what is printed and written to results.json.

    Raises:
        ValueError: the checkpoint, a manifest, labels, a lexicon or a language model cannot be read or do not fit; an
            argument is wrong.
    """
    began = time.perf_counter()
    check_arguments(args)
    if args.results_path is not None:
        make_folder(args.results_path, "--results-path")
    logger.info("loading %s", args.path)
    model = SpeechModel.load(args.path, args.device, args.precision, {"data": args.data}, args.dict)
    labels = None if args.labels == "none" else args.labels or model.task.cfg.labels
    testset = TestSet.read(args.data, args.gen_subset, labels, model.dictionary())
    speakers = testset.speakers(args.speakers, args.speaker_pattern)
    decoder = decoder_of(args, model)
    windows = WindowSettings(args.window, args.overlap)
    logger.info("%s: %d utterances, on %s", args.gen_subset, len(testset), model.describe())
    if args.tune is not None:
        _tune(args, model, decoder, labels, windows)
    outputs = OutputStatistics()
    readings = recognise.read_all(
        model, testset.files(), testset.manifest.sizes, decoder, windows, args.max_tokens, outputs
    )
    result = _summary(args, model, testset, readings, decoder, outputs)
    if testset.references:
        result["rates"] = evaluate.error_rates(testset, readings, speakers, args.bootstrap_draws, args.seed)
    if args.explain:
        facts = gather_facts(model, testset, readings, decoder, outputs, windows, args.max_tokens)
        result["explanation"] = [finding._asdict() for finding in explain.explain(facts)]
    result["seconds"] = round(time.perf_counter() - began, 2)
    if args.results_path is not None:
        evaluate.write_results(Path(args.results_path), testset, readings, model.conv_layers, model.sample_rate, result)
    return result


def _tune(
    args: argparse.Namespace, model: SpeechModel, decoder: Any, labels: str | None, windows: WindowSettings
) -> None:
    if not isinstance(decoder, BeamDecoder) or labels is None:
        raise ValueError("--tune needs a lexicon or a language model (--lexicon, --lm), and labels of its manifest")
    dev = TestSet.read(args.data, args.tune, labels, model.dictionary())
    log_probs: list[np.ndarray] = [np.zeros((0, len(model.dictionary().symbols)), dtype=np.float32)] * len(dev)
    with Progress(f"reading {args.tune}", len(dev)) as progress:
        for emission in recognise.emissions(model, dev.files(), dev.manifest.sizes, windows, args.max_tokens):
            pieces = list(recognise.ticking(emission.pieces, progress))
            if pieces:
                log_probs[emission.index] = np.concatenate(pieces)
            progress.advance()
    tune(decoder, log_probs, lambda texts: word_errors(dev.references, texts).errors)


def _summary(
    args: argparse.Namespace,
    model: SpeechModel,
    testset: TestSet,
    readings: Sequence[Reading],
    decoder: Any,
    outputs: OutputStatistics,
) -> dict[str, Any]:
    """What was done, and how the outputs look."""
    tokens = model.dictionary()
    found: dict[str, Any] = {"checkpoint": os.fspath(args.path), "subset": args.gen_subset, "utterances": len(testset)}
    found["audio_seconds"] = round(sum(reading.num_samples for reading in readings) / model.sample_rate, 1)
    found["decoder"] = {"kind": "greedy"}
    if isinstance(decoder, BeamDecoder):
        settings = {
            name: value for name, value in vars(decoder.settings).items() if value is not None and math.isfinite(value)
        }
        found["decoder"] = {"kind": "beam", "lexicon": args.lexicon, "lm": args.lm, **settings}
    found["unreadable"] = sum(reading.error is not None for reading in readings)
    found["empty"] = sum(not reading.hypotheses[0].text for reading in readings)
    found["blank_share"] = round(outputs.share(tokens.blank), 4)
    found["symbols_used"] = [outputs.used(tokens.silent), len(tokens.symbols) - len(tokens.silent)]
    for reading in readings[:3]:
        spoken = f" | reference: {testset.references[reading.index]}" if testset.references else ""
        logger.info("utterance %d: %s%s", reading.index, reading.hypotheses[0].text, spoken)
    return found


def report(result: dict[str, Any], args: argparse.Namespace, as_json: bool) -> None:
    """Print the result: as JSON, with its figures in the log; or as text for a terminal."""
    lines = evaluate.describe(result, args.bootstrap_draws)
    if not as_json:
        print("\n".join(lines))
        return
    for line in lines:
        logger.info(line)
    print(json.dumps(result))


def cli_main(argv: Sequence[str] | None = None) -> int:
    words = join_negative_values(sys.argv[1:] if argv is None else argv)
    advice = old_infer.new_command(words)
    if advice is not None:
        print(f"fairseq-infer: {advice}", file=sys.stderr)
        return 2
    args = get_parser().parse_args(words)
    set_up_logging()
    try:
        result = main(args)
    except (ValueError, OSError) as error:
        print(f"fairseq-infer: {error}", file=sys.stderr)
        return 1
    report(result, args, args.json or not sys.stdout.isatty())
    return 0


if __name__ == "__main__":
    sys.exit(cli_main())
