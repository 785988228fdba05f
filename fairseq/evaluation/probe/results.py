"""Results of probes as rows, and as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

from fairseq.evaluation.error_rates import Bounds, Rate
from fairseq.evaluation.probe.probing import ProbeResult
from fairseq.evaluation.probe.unlabelled import CodeScore
from fairseq.inference.model import SpeechModel


class Row(TypedDict):
    """A checkpoint's result, as in the command's JSON."""

    checkpoint: str
    num_updates: int | None  # None: the checkpoint does not say
    layer: str
    layers: dict[str, float]  # bits per unit
    cer: Rate
    loss: float  # bits per unit, of the held-out part
    seconds: float  # of processor time


class ScoreRow(TypedDict):
    """A checkpoint's score without labels, as in the command's JSON; see `CodeScore`."""

    checkpoint: str
    num_updates: int | None
    information: float  # bits
    kept: float  # per cent
    perplexity: float
    frames: int
    seconds: float  # of processor time


def row_of(path: str | os.PathLike[str], model: SpeechModel, result: ProbeResult) -> Row:
    return {
        "checkpoint": os.fspath(path),
        "num_updates": model.num_updates,
        "layer": result.layer,
        "layers": result.layers,
        "cer": result.rate,
        "loss": result.loss,
        "seconds": round(result.seconds, 2),
    }


def score_row_of(path: str | os.PathLike[str], model: SpeechModel, score: CodeScore, seconds: float) -> ScoreRow:
    return {
        "checkpoint": os.fspath(path),
        "num_updates": model.num_updates,
        "information": round(score.information, 4),
        "kept": round(score.kept, 2),
        "perplexity": round(score.perplexity, 2),
        "frames": score.frames,
        "seconds": round(seconds, 2),
    }


def describe_scores(rows: Sequence[ScoreRow]) -> list[str]:
    """Return a table with a line for each checkpoint, and the best one's name if there are several."""
    table = [["checkpoint", "updates", "code information", "codes kept in noise", "code perplexity"]]
    for row in rows:
        updates = _updates(row["num_updates"])
        bits, kept, perplexity = f"{row['information']:.3f} bits", f"{row['kept']:.1f} %", f"{row['perplexity']:.1f}"
        table.append([row["checkpoint"], updates, bits, kept, perplexity])
    lines = _aligned(table)
    if len(rows) > 1:
        lines.append(f"highest code information: {max(rows, key=lambda row: row['information'])['checkpoint']}")
    lines.append(f"processor time per checkpoint: {sum(row['seconds'] for row in rows) / len(rows):.0f} s")
    return lines


def describe(rows: Sequence[Row]) -> list[str]:
    """Return a table with a line for each checkpoint, and the best one's name if there are several."""
    speakers = rows[0]["cer"].get("num_speakers", 0)
    titles = ["checkpoint", "updates", "layer", "bits per unit", "CER", "95 % over utterances"]
    titles += [f"95 % over {speakers} speakers"] if speakers > 1 else []
    table = [titles]
    for row in rows:
        rate = row["cer"]
        line = [
            row["checkpoint"],
            _updates(row["num_updates"]),
            row["layer"],
            f"{row['loss']:.3f}",
            _percent(rate["rate"]),
        ]
        table.append(
            [*line, _interval(rate["by_utterance"]), *([_interval(rate.get("by_speaker"))] if speakers > 1 else [])]
        )
    lines = _aligned(table)
    rated = [(row["cer"]["rate"], row["checkpoint"]) for row in rows if row["cer"]["rate"] is not None]
    if len(rated) > 1:
        lines.append(f"lowest CER: {min(rated)[1]}")
    seconds = sum(row["seconds"] for row in rows) / len(rows)
    lines.append(f"processor time per checkpoint: {seconds:.0f} s")
    return lines


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in table]


def _updates(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.2f} %"


def _interval(bounds: Bounds | None) -> str:
    low, high = bounds or (None, None)
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"
