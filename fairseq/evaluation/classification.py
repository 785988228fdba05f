"""Evaluate a classifier: probabilities of each utterance, and metrics with intervals.

Letters: N utterances, K classes.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch

from fairseq.data.audio.manifest import Manifest
from fairseq.data.classes import LabelSource, encode
from fairseq.evaluation.error_rates import Bounds
from fairseq.inference import recognise
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.inference.windows import WindowSettings
from fairseq.models.wav2vec.classification import Wav2VecClassification
from fairseq.scoring.bootstrap import interval
from fairseq.scoring.classifiers import equal_error_rate_of_counts, log_odds, macro_f1, trial_classes

if TYPE_CHECKING:
    from typing_extensions import NotRequired  # typing has it from Python 3.11 on

logger = logging.getLogger(__name__)

METRICS = ("accuracy", "f1", "eer")


class Score(TypedDict):
    """One metric in per cent, as in results.json."""

    value: float | None  # None: not defined, such as eer if only one class occurs
    by_utterance: Bounds | None  # None for a single utterance
    by_speaker: NotRequired[Bounds | None]  # if speakers are known
    num_speakers: NotRequired[int]


class ClassificationResult(TypedDict):
    """What `fairseq-infer` prints for a classifier and writes to results.json."""

    checkpoint: str
    subset: str
    utterances: int
    unreadable: int  # they count as wrong, and have no score
    classes: list[str]
    scores: NotRequired[dict[str, Score]]  # if there are labels
    confusion: NotRequired[dict[str, dict[str, int]]]  # label -> prediction -> utterances, without zeros
    seconds: NotRequired[float]


@dataclass
class Classified:
    """A classifier's output for a manifest.

    Args:
        log_probs: N x K, fp32; a row of NaN for an utterance that could not be read.
        labels: class of each utterance, N; None without labels.
        errors: by index: why an utterance could not be read.
    """

    name: str
    manifest: Manifest
    classes: list[str]
    log_probs: np.ndarray
    labels: np.ndarray | None
    errors: dict[int, str]

    def predicted(self) -> np.ndarray:
        """Return the most likely class of each utterance, N; -1 if it could not be read."""
        return np.where(np.isnan(self.log_probs[:, 0]), -1, self.log_probs.argmax(axis=1))


def classify(
    model: SpeechModel,
    data: str,
    subset: str,
    source: LabelSource | None,
    windows: WindowSettings,
    max_tokens: int,
) -> Classified:
    """Classify the utterances of <data>/<subset>.tsv.

    Long audio is encoded in windows, and its frames are pooled together. An utterance that cannot be read is logged.

    Args:
        source: where labels are; None: there are none.
        max_tokens: samples per batch, including padding.
    Raises:
        ValueError: the model is not a classifier, or the manifest or labels cannot be read.
    """
    classifier, classes = model.classifier(), model.task.target_dictionary
    path = os.path.join(data, f"{subset}.tsv")
    manifest = Manifest(path)
    manifest.check_root()
    labels = None
    if source is not None:
        labels = encode(source.read(path, manifest), classes, manifest, "the checkpoint")
    audios = [manifest.audio(index) for index in range(len(manifest))]
    log_probs = np.full((len(manifest), len(classes)), np.nan, dtype=np.float32)
    errors: dict[int, str] = {}
    with Progress("classifying", len(audios)) as progress:
        emissions = recognise.emissions(model, audios, manifest.sizes.tolist(), windows, max_tokens)
        for emission in emissions:
            error = emission.error
            try:
                pieces = list(recognise.ticking(emission.pieces, progress))
                frames = np.concatenate(pieces) if pieces else np.zeros((0, 1), dtype=np.float32)
                if error is None and len(frames) == 0:
                    error = "it is shorter than one frame of the model"
                if error is None:
                    log_probs[emission.index] = _classified(classifier, frames)
            except (ValueError, OSError) as problem:
                error = str(problem)
            if error is not None:
                errors[emission.index] = error
                logger.warning("utterance %d: %s", emission.index, error)
            progress.advance()
    return Classified(subset, manifest, list(classes.symbols), log_probs, labels, errors)


@torch.inference_mode()
def _classified(classifier: Wav2VecClassification, frames: np.ndarray) -> np.ndarray:
    """Return log-probabilities, K, of an utterance's frames, T x C."""
    where = next(classifier.pooling_layer.parameters()).device
    logits = classifier.pooling_layer(torch.from_numpy(frames).to(where).unsqueeze(1), None)
    return classifier.get_normalized_probs(logits, log_probs=True)[0].cpu().numpy()


# -- metrics -----------------------------------------------------------------------------------------------------------


def scores_of(found: Classified, speakers: Sequence[str] | None, draws: int, seed: int) -> dict[str, Score]:
    """Compute accuracy, macro F1 and equal error rate with intervals over utterances and speakers.

    Args:
        speakers: one per utterance; None if unknown.
        draws, seed: see `interval`.
    """
    measures = measures_of(found)
    scores: dict[str, Score] = {}
    for name, measure in measures.items():
        value = measure(np.ones(len(found.manifest)))
        score: Score = {
            "value": None if math.isnan(value) else round(value, 4),
            "by_utterance": _bounds(measure, len(found.manifest), None, draws, seed),
        }
        if speakers is not None:
            score["by_speaker"] = _bounds(measure, len(found.manifest), speakers, draws, seed)
            score["num_speakers"] = len(set(speakers))
        scores[name] = score
    return scores


def measures_of(found: Classified) -> dict[str, Callable[[np.ndarray], float]]:
    """Return each metric in per cent as a function of how often each utterance counts, N."""
    assert found.labels is not None, "metrics need labels"
    actual, predicted = found.labels, found.predicted()
    K, correct, read = len(found.classes), actual == predicted, predicted >= 0
    odds = log_odds(torch.from_numpy(found.log_probs[read])).numpy()[:, trial_classes(K)]
    own = (actual[read, None] == np.arange(K))[:, trial_classes(K)]
    # ranks instead of values: sorted once, not in every draw
    ranks = np.unique(odds, return_inverse=True)[1].reshape(odds.shape)
    places = int(ranks.max(initial=-1)) + 1

    def accuracy(weights: np.ndarray) -> float:
        return float(100 * (weights @ correct) / weights.sum())

    def f1(weights: np.ndarray) -> float:
        counts = [
            np.bincount(column[kept], weights=weights[kept], minlength=K)
            for column, kept in ((actual, correct), (predicted, read), (actual, np.ones_like(read)))
        ]
        return 100 * macro_f1(*counts)

    def eer(weights: np.ndarray) -> float:
        of_trials = np.broadcast_to(weights[read, None], ranks.shape)
        targets, others = (np.bincount(ranks[part], weights=of_trials[part], minlength=places) for part in (own, ~own))
        return 100 * equal_error_rate_of_counts(targets, others)

    return {"accuracy": accuracy, "f1": f1, "eer": eer}


def _bounds(
    measure: Callable[[np.ndarray], float], count: int, groups: Sequence[str] | None, draws: int, seed: int
) -> Bounds | None:
    found = interval(measure, count, groups, draws, seed)
    if found is None:
        return None
    return [None if math.isnan(bound) else round(bound, 3) for bound in found]


# -- results -----------------------------------------------------------------------------------------------------------


def result_of(
    found: Classified, checkpoint: str, scores: dict[str, Score] | None, seconds: float
) -> ClassificationResult:
    """Collect what is printed and written; `scores` is None without labels."""
    result: ClassificationResult = {
        "checkpoint": checkpoint,
        "subset": found.name,
        "utterances": len(found.manifest),
        "unreadable": len(found.errors),
        "classes": found.classes,
    }
    if scores is not None and found.labels is not None:
        result["scores"] = scores
        confusion: dict[str, dict[str, int]] = {}
        for actual, predicted in zip(found.labels.tolist(), found.predicted().tolist(), strict=True):
            row = confusion.setdefault(found.classes[actual], {})
            name = "" if predicted < 0 else found.classes[predicted]
            row[name] = row.get(name, 0) + 1
        result["confusion"] = confusion
    result["seconds"] = round(seconds, 2)
    return result


def describe(result: ClassificationResult, draws: int) -> list[str]:
    """Return the result as lines of text."""
    lines = [
        f"{result['subset']}: {result['utterances']} utterances, {len(result['classes'])} classes, "
        f"{result.get('seconds', 0):.0f} s"
    ]
    if result["unreadable"]:
        lines.append(f"unreadable utterances: {result['unreadable']}; they count as wrong")
    scores = result.get("scores")
    if scores is None:
        return lines
    speakers = scores["accuracy"].get("num_speakers")
    rows = [["", "", "95 % over utterances", *([] if speakers is None else [f"95 % over {speakers} speakers"])]]
    for name, score in scores.items():
        value = "none" if score["value"] is None else f"{score['value']:.2f} %"
        intervals = [score["by_utterance"], *([score["by_speaker"]] if "by_speaker" in score else [])]
        rows.append([name if name == "accuracy" else name.upper(), value, *map(_interval, intervals)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.append(f"intervals: {draws} draws with replacement")
    if speakers is None:
        lines.append("no interval over speakers: name the speakers with --speakers or --speaker-pattern")
    return lines


def _interval(bounds: Bounds | None) -> str:
    low, high = bounds or (None, None)
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def contents_of(found: Classified, result: ClassificationResult) -> dict[str, str]:
    """Return the files of a result by name: scores.tsv, scores.jsonl and results.json.

    scores.tsv has a header and a line per utterance: its path, its label ("" without labels), the prediction, and the
    probability of each class. scores.jsonl has the same, as {"id", "label", "prediction", "scores": {class: p}}, and
    "error" for an utterance that could not be read.
    """
    probabilities, predicted = np.exp(found.log_probs), found.predicted().tolist()
    table, rows = ["\t".join(["id", "label", "prediction", *found.classes])], []
    for index, row in enumerate(probabilities.tolist()):
        name = found.manifest.utterance(index)
        label = "" if found.labels is None else found.classes[int(found.labels[index])]
        prediction = "" if predicted[index] < 0 else found.classes[predicted[index]]
        shown = ["" if math.isnan(p) else f"{p:.6g}" for p in row]
        table.append("\t".join([name, label, prediction, *shown]))
        line: dict[str, object] = {"id": name, "label": label or None, "prediction": prediction or None}
        if index in found.errors:
            line["error"] = found.errors[index]
        else:
            line["scores"] = {symbol: float(f"{p:.6g}") for symbol, p in zip(found.classes, row, strict=True)}
        rows.append(json.dumps(line, ensure_ascii=False))
    return {
        "scores.tsv": "\n".join(table) + "\n",
        "scores.jsonl": "\n".join(rows) + "\n",
        "results.json": json.dumps(result, indent=1, ensure_ascii=False) + "\n",
    }


def write_results(folder: Path, found: Classified, result: ClassificationResult) -> None:
    """Write the files of `contents_of`, each atomically."""
    for name, content in contents_of(found, result).items():
        temporary = folder / f"{name}.{os.getpid()}.tmp"
        try:
            temporary.write_text(content, encoding="utf-8", errors="surrogateescape")
            os.replace(temporary, folder / name)
        finally:
            temporary.unlink(missing_ok=True)
