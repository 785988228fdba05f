"""`fairseq-infer`: recognise a manifest's utterances, and say how many errors there are and why.

    fairseq-infer DATA --path CHECKPOINT --gen-subset test
    fairseq-infer DATA --path CHECKPOINT --gen-subset test --lexicon lexicon.txt --lm words.bin --tune dev --results-path results
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
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.decoding.beam import BeamDecoder, BeamSettings, read_beam
from fairseq.decoding.greedy import GreedyDecoder
from fairseq.inference import evaluate, explain, recognise
from fairseq.inference.facts import Facts, gather_facts
from fairseq.inference.model import PRECISIONS, SpeechModel
from fairseq.inference.recognise import Reading
from fairseq.inference.statistics import OutputStatistics
from fairseq.inference.testset import TestSet
from fairseq.inference.tuning import tune
from fairseq.inference.windows import WindowSettings
from fairseq.scoring.wer import word_errors
from fairseq.utils import make_folder

logger = logging.getLogger("fairseq_cli.infer")

DICTIONARY_HELP = "dictionary of a fine-tuned checkpoint that has none inside, such as dict.ltr.txt"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-infer", description=__doc__.split("\n")[0].split(": ", 1)[1])
    parser.add_argument("data", help="folder of the manifests and labels")
    parser.add_argument("--path", required=True, help="fine-tuned checkpoint")
    parser.add_argument("--gen-subset", default="test", help="name of the manifest (default: test)")
    parser.add_argument("--labels", help="extension of the label files; none: no labels (default: the checkpoint's)")
    parser.add_argument("--results-path", help="folder for hypo.word, hypo.units, ref.word, ref.units, hypo.jsonl and results.json")
    parser.add_argument("--explain", action="store_true", help="say which of the known causes of a bad result fits")
    add_decoder_arguments(parser)
    parser.add_argument("--tune", metavar="SUBSET", help="find lm_weight and word_score on this manifest first")
    parser.add_argument("--speakers", help="file with the speaker of each utterance, a line each")
    parser.add_argument("--speaker-pattern", help="regular expression whose first group is the speaker in the manifest's paths")
    parser.add_argument("--bootstrap-draws", type=int, default=1000, help="test sets drawn for the intervals (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of these draws (default: 1)")
    parser.add_argument("--max-tokens", type=int, default=640000, help="samples of a batch, padding included (default: 640000)")
    return parser


def add_decoder_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the model, the decoder and the windows."""
    parser.add_argument("--dict", help=DICTIONARY_HELP)
    parser.add_argument("--lexicon", help="words and their spelling, a line `WORD W O R D |` each, or only the words")
    parser.add_argument("--lm", "--lm-model", dest="lm", help="n-gram language model, KenLM's ARPA or binary form")
    beam = BeamSettings()
    for option in ("beam", "beam_size_token", "beam_threshold", "lm_weight", "word_score", "unk_weight", "sil_weight"):
        default = getattr(beam, option)
        kind = int if option in ("beam", "beam_size_token") else float
        shown = "all" if default is None else f"{default:g}"
        parser.add_argument(f"--{option.replace('_', '-')}", type=kind, default=default, help=f"of the beam search (default: {shown})")
    parser.add_argument("--nbest", type=int, default=1, help="hypotheses of a beam search (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda ...")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 where that is faster; int8: docs/decoding.md")
    windows = WindowSettings()
    parser.add_argument("--window", type=float, default=windows.seconds, help=f"seconds of a window (default: {windows.seconds:g})")
    parser.add_argument("--overlap", type=float, default=windows.overlap, help=f"of windows, in seconds (default: {windows.overlap:g})")


def decoder_of(args: argparse.Namespace, model: SpeechModel) -> GreedyDecoder | BeamDecoder:
    """The decoder that the arguments ask for: greedy without lexicon and language model."""
    if args.lexicon is None and args.lm is None:
        return GreedyDecoder(model.dictionary())
    settings = BeamSettings(**{f.name: getattr(args, f.name) for f in fields(BeamSettings) if hasattr(args, f.name)})
    return read_beam(model.dictionary(), args.lexicon, args.lm, settings, args.nbest)


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Recognise and evaluate as `args` say; returns what is printed and written to results.json.

    Raises:
        ValueError: the checkpoint, a manifest, labels, a lexicon or a language model cannot be read or do not fit; an argument is wrong.
    """
    began = time.perf_counter()
    check_arguments(args)
    if args.results_path is not None:
        make_folder(args.results_path, "--results-path")
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
    readings = recognise.read_all(model, testset.files(), testset.manifest.sizes, decoder, windows, args.max_tokens, outputs)
    result = _summary(args, model, testset, readings, decoder, outputs)
    if testset.references:
        result["rates"] = evaluate.error_rates(testset, readings, speakers, args.bootstrap_draws, args.seed)
        for line in evaluate.describe_rates(result["rates"], args.bootstrap_draws):
            logger.info(line)
        if speakers is None:
            logger.info("no interval over speakers: say who they are with --speakers or --speaker-pattern")
    if args.explain:
        facts = gather_facts(model, testset, readings, decoder, outputs, windows, args.max_tokens)
        result["explanation"] = [finding._asdict() for finding in tell(explain.explain(facts), facts)]
    result["seconds"] = round(time.perf_counter() - began, 2)
    if args.results_path is not None:
        evaluate.write_results(Path(args.results_path), testset, readings, model.conv_layers, model.sample_rate, result)
    return result


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for numbers that decoding or its evaluation cannot use."""
    for option in ("beam", "nbest", "bootstrap_draws"):
        if vars(args).get(option, 1) < 1:
            raise ValueError(f"--{option.replace('_', '-')} is {vars(args)[option]}; it must be at least 1")


def _tune(args: argparse.Namespace, model: SpeechModel, decoder: Any, labels: str | None, windows: WindowSettings) -> None:
    if not isinstance(decoder, BeamDecoder) or labels is None:
        raise ValueError("--tune needs a lexicon or a language model (--lexicon, --lm), and labels of its manifest")
    dev = TestSet.read(args.data, args.tune, labels, model.dictionary())
    log_probs: list[np.ndarray] = [np.zeros((0, len(model.dictionary().symbols)), dtype=np.float32)] * len(dev)
    for emission in recognise.emissions(model, dev.files(), dev.manifest.sizes, windows, args.max_tokens):
        pieces = list(emission.pieces)
        if pieces:
            log_probs[emission.index] = np.concatenate(pieces)
    tune(decoder, log_probs, lambda texts: word_errors(dev.references, texts).errors)


def _summary(
    args: argparse.Namespace, model: SpeechModel, testset: TestSet, readings: Sequence[Reading], decoder: Any, outputs: OutputStatistics
) -> dict[str, Any]:
    """What was done, and how the outputs look."""
    tokens = model.dictionary()
    found: dict[str, Any] = {"checkpoint": os.fspath(args.path), "subset": args.gen_subset, "utterances": len(testset)}
    found["audio_seconds"] = round(sum(reading.num_samples for reading in readings) / model.sample_rate, 1)
    found["decoder"] = {"kind": "greedy"}
    if isinstance(decoder, BeamDecoder):
        settings = {name: value for name, value in vars(decoder.settings).items() if value is not None and math.isfinite(value)}
        found["decoder"] = {"kind": "beam", "lexicon": args.lexicon, "lm": args.lm, **settings}
    found["unreadable"] = sum(reading.error is not None for reading in readings)
    found["empty"] = sum(not reading.hypotheses[0].text for reading in readings)
    found["blank_share"] = round(outputs.share(tokens.blank), 4)
    found["symbols_used"] = [outputs.used(tokens.silent), len(tokens.symbols) - len(tokens.silent)]
    for reading in readings[:3]:
        spoken = f" | reference: {testset.references[reading.index]}" if testset.references else ""
        logger.info("utterance %d: %s%s", reading.index, reading.hypotheses[0].text, spoken)
    return found


def tell(findings: list[explain.Finding], facts: Facts) -> list[explain.Finding]:
    """Log the findings, or that there are none."""
    for finding in findings:
        logger.info("explanation: %s", finding)
    if not findings and facts.references:
        logger.info("explanation: WER is %.1f %%, CER %.1f %%, and none of the known causes fits", facts.wer, facts.cer)
    return findings


def set_up_logging() -> None:
    logging.basicConfig(
        format="%(asctime)s | %(levelname)s | %(name)s | %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=os.environ.get("LOGLEVEL", "INFO").upper(),
        stream=sys.stderr,
        force=True,
    )


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    set_up_logging()
    try:
        result = main(args)
    except (ValueError, OSError) as error:
        print(f"fairseq-infer: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(cli_main())
