"""`fairseq-infer` for a classifier: scores of a manifest's utterances, and metrics with intervals."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from pathlib import Path

from fairseq.data.classes import LabelSource
from fairseq.evaluation import classification
from fairseq.evaluation.classification import ClassificationResult
from fairseq.evaluation.testset import speakers_of
from fairseq.inference.model import SpeechModel
from fairseq_cli import command

logger = logging.getLogger("fairseq_cli.infer")

_OF_TRANSCRIPTS = ("lexicon", "lm", "tune", "explain")  # options without a meaning for classes


def main(args: argparse.Namespace, model: SpeechModel) -> ClassificationResult:
    """Classify and evaluate; returns the result that is printed and written to results.json.

    Raises:
        ValueError: the manifest or labels cannot be read or do not fit; an argument is wrong.
    """
    began = time.perf_counter()
    given = [f"--{option}" for option in _OF_TRANSCRIPTS if vars(args)[option]]
    if given:
        raise ValueError(f"{', '.join(given)}: {args.path} is a classifier, which has no transcripts. Remove it")
    source = label_source(args, model)
    logger.info("%s: classifying, on %s", args.gen_subset, model.describe())
    windows = command.windows_of(args)
    found = classification.classify(model, args.data, args.gen_subset, source, windows, args.max_tokens)
    scores = None
    if source is not None:
        speakers = speakers_of(found.manifest, args.speakers, args.speaker_pattern)
        scores = classification.scores_of(found, speakers, args.bootstrap_draws, args.seed)
    result = classification.result_of(found, os.fspath(args.path), scores, time.perf_counter() - began)
    if args.results_path is not None:
        classification.write_results(Path(args.results_path), found, result)
    return result


def label_source(args: argparse.Namespace, model: SpeechModel) -> LabelSource | None:
    """Where the labels are: as in training, unless --labels names other files; None with `--labels none`."""
    if args.labels == "none":
        return None
    task = model.task.cfg
    if args.labels is not None and task.label_table is None:
        return LabelSource(args.labels)
    return LabelSource(args.labels or task.labels, task.label_table, task.label_pattern)


def report(result: ClassificationResult, draws: int, as_json: bool) -> int:
    """Print the result, as JSON with the figures in the log, or as text for a terminal; returns the exit status."""
    lines = classification.describe(result, draws)
    if not as_json:
        print("\n".join(lines))
        return 0
    for line in lines:
        logger.info(line)
    print(json.dumps(result))
    return 0
