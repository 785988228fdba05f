"""Error rates of a test set, with intervals, and the files that fairseq writes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairseq.inference.formats import as_dict, json_line
from fairseq.inference.recognise import Reading
from fairseq.inference.testset import TestSet
from fairseq.inference.transcript import FrameTimes, from_hypotheses
from fairseq.scoring.bootstrap import Interval, bootstrap
from fairseq.scoring.wer import Errors, character_errors, word_errors

Count = Callable[[Sequence[str], Sequence[str]], Errors]


def error_rates(testset: TestSet, readings: Sequence[Reading], speakers: Sequence[str] | None, draws: int, seed: int) -> dict[str, Any]:
    """WER, CER and UER in per cent, each with its intervals.

    Args:
        readings: one for each utterance, in the manifest's order.
        speakers: of each utterance; None: not known.
    Returns:
        {"wer": {"rate", "errors", "total", "by_utterance": [low, high], "by_speaker": ...}, "cer": ..., "uer": ...}; "uer" only where the
        references' units are known. Rates and bounds are None where all references are empty.
    """
    texts = [reading.hypotheses[0].text for reading in readings]
    units = [reading.hypotheses[0].unit_text for reading in readings]
    compared: dict[str, tuple[Count, Sequence[str], Sequence[str]]] = {
        "wer": (word_errors, testset.references, texts),
        "cer": (character_errors, testset.references, texts),
    }
    if testset.unit_references:
        compared["uer"] = (word_errors, testset.unit_references, units)
    return {name: _rate(*parts, speakers, draws, seed) for name, parts in compared.items()}


def _rate(
    count: Count, references: Sequence[str], hypotheses: Sequence[str], speakers: Sequence[str] | None, draws: int, seed: int
) -> dict[str, Any]:
    each = [count([reference], [hypothesis]) for reference, hypothesis in zip(references, hypotheses, strict=True)]
    errors, totals = [found.errors for found in each], [found.total for found in each]
    found: dict[str, Any] = {"rate": _number(Errors(sum(errors), sum(totals)).rate()), "errors": sum(errors), "total": sum(totals)}
    by_utterance = bootstrap(errors, totals, None, draws, seed)
    found["by_utterance"] = _bounds(by_utterance)
    if speakers is not None:
        by_speaker = bootstrap(errors, totals, speakers, draws, seed)
        found |= {"by_speaker": _bounds(by_speaker), "num_speakers": by_speaker.num_groups}
    return found


def _number(rate: float) -> float | None:
    """As JSON may have it, which knows no NaN."""
    return None if math.isnan(rate) else rate


def _bounds(interval: Interval) -> list[float | None]:
    return [_number(round(interval.low, 3)), _number(round(interval.high, 3))]


def describe_rates(rates: dict[str, Any], draws: int) -> list[str]:
    """A line for each rate, for people."""
    lines = []
    for name, found in rates.items():
        if found["rate"] is None:
            lines.append(f"{name.upper()}: no rate, as all references are empty ({found['errors']} errors)")
            continue
        text = f"{name.upper()} {found['rate']:.2f} % ({found['errors']} of {found['total']}), 95 % interval "
        text += "{:.2f} to {:.2f} over utterances".format(*found["by_utterance"])
        if "by_speaker" in found:
            text += ", {:.2f} to {:.2f} over {} speakers".format(*found["by_speaker"], found["num_speakers"])
        lines.append(f"{text} ({draws} draws)")
    return lines


def write_results(
    folder: Path, testset: TestSet, readings: Sequence[Reading], conv_layers: Any, sample_rate: int, result: dict[str, Any]
) -> None:
    """fairseq's hypo.word, hypo.units, ref.word and ref.units, a line `text (None-index)` for each utterance, hypo.jsonl and results.json.

    hypo.jsonl has the words' times, confidence, the other hypotheses and what went wrong; results.json has `result`. Each is written
    whole or not at all, and references that a former run left are removed where this one has none.
    """
    best = [reading.hypotheses[0] for reading in readings]
    texts = {"hypo.word": [found.text for found in best], "hypo.units": [found.unit_text for found in best]}
    if testset.references:
        texts["ref.word"] = testset.references
    if testset.unit_references:
        texts["ref.units"] = testset.unit_references
    contents = {name: "".join(f"{line} (None-{index})\n" for index, line in enumerate(lines)) for name, lines in texts.items()}
    rows = []
    for reading in readings:
        duration = reading.num_samples / sample_rate
        times = FrameTimes(conv_layers, sample_rate, duration)
        transcript = from_hypotheses(testset.manifest.name(reading.index), reading.hypotheses, times, duration)
        transcript.error = reading.error
        row = as_dict(transcript) | {"scores": [round(hypothesis.score, 4) for hypothesis in reading.hypotheses]}
        rows.append(json_line(row))
    contents |= {"hypo.jsonl": "".join(rows), "results.json": json.dumps(result, indent=1) + "\n"}
    for name, content in contents.items():
        temporary = folder / f"{name}.{os.getpid()}.tmp"
        try:
            temporary.write_text(content, encoding="utf-8")
            os.replace(temporary, folder / name)
        finally:
            temporary.unlink(missing_ok=True)
    for name in {"ref.word", "ref.units"} - contents.keys():
        (folder / name).unlink(missing_ok=True)
