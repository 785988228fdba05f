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


def error_rates(
    testset: TestSet, readings: Sequence[Reading], speakers: Sequence[str] | None, draws: int, seed: int
) -> dict[str, Any]:
    """WER, CER and UER in per cent, each with its intervals.

    Args:
        readings: one for each utterance, in the manifest's order.
        speakers: of each utterance; None: not known.
    Returns:
        {"wer": {"rate", "errors", "total", "by_utterance": [low, high], "by_speaker": ...}, "cer": ..., "uer": ...};
        "uer" only where the references' units are known. Rates and bounds are None where all references are empty; an
        interval is None over one utterance or one speaker, which says nothing about others.
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
    count: Count,
    references: Sequence[str],
    hypotheses: Sequence[str],
    speakers: Sequence[str] | None,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    each = [count([reference], [hypothesis]) for reference, hypothesis in zip(references, hypotheses, strict=True)]
    errors, totals = [found.errors for found in each], [found.total for found in each]
    found: dict[str, Any] = {
        "rate": _number(Errors(sum(errors), sum(totals)).rate()),
        "errors": sum(errors),
        "total": sum(totals),
    }
    by_utterance = bootstrap(errors, totals, None, draws, seed)
    found["by_utterance"] = _bounds(by_utterance)
    if speakers is not None:
        by_speaker = bootstrap(errors, totals, speakers, draws, seed)
        found |= {"by_speaker": _bounds(by_speaker), "num_speakers": by_speaker.num_groups}
    return found


def _number(rate: float) -> float | None:
    """As JSON may have it, which knows no NaN."""
    return None if math.isnan(rate) else rate


def _bounds(interval: Interval) -> list[float | None] | None:
    return None if interval.num_groups < 2 else [_number(round(interval.low, 3)), _number(round(interval.high, 3))]


def describe(result: dict[str, Any], draws: int) -> list[str]:
    """The result of `fairseq-infer` in lines for people."""
    decoder, tokens = result["decoder"], result["symbols_used"]
    kind = "greedy decoding" if decoder["kind"] == "greedy" else f"beam search (beam {decoder['beam']})"
    lines = [
        f"{result['subset']}: {result['utterances']} utterances, {result['audio_seconds'] / 60:.1f} min, {kind}, "
        f"{result['seconds']:.0f} s",
        f"blank in {100 * result['blank_share']:.1f} % of the frames, {tokens[0]} of {tokens[1]} symbols used",
    ]
    if result["unreadable"] or result["empty"]:
        lines.append(f"could not be read: {result['unreadable']}; without any text: {result['empty']}")
    if "rates" in result:
        lines += _describe_rates(result["rates"], draws)
    for finding in result.get("explanation", []):
        lines.append(f"explanation: {finding['cause']}: {finding['evidence']}. {finding['advice']}")
    if result.get("explanation") == [] and "rates" in result:
        lines.append("explanation: none of the known causes fits")
    return lines


def _describe_rates(rates: dict[str, Any], draws: int) -> list[str]:
    """A row for each rate, and what its intervals are of."""
    speakers = rates["wer"].get("num_speakers")
    rows = [
        [
            "",
            "rate",
            "errors",
            "of",
            "95 % over utterances",
            *([] if speakers is None else [f"95 % over {speakers} speakers"]),
        ]
    ]
    for name, found in rates.items():
        rate = "none" if found["rate"] is None else f"{found['rate']:.2f} %"
        intervals = [found[key] for key in ("by_utterance", "by_speaker") if key in found]
        rows.append([name.upper(), rate, str(found["errors"]), str(found["total"]), *map(_interval, intervals)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if rates["wer"]["rate"] is None:
        return [*lines, "all references are empty, so there are no rates"]
    if rates["wer"]["by_utterance"] is None:
        return [*lines, "no intervals: one utterance says nothing about others"]
    lines.append(f"intervals: {draws} draws with replacement")
    if speakers is None:
        lines.append("no interval over speakers: give them with --speakers or --speaker-pattern")
    elif speakers == 1:
        lines.append("no interval over speakers: one voice says nothing about others")
    return lines


def _interval(bounds: list[float | None] | None) -> str:
    return "-" if bounds is None or bounds[0] is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def write_results(
    folder: Path,
    testset: TestSet,
    readings: Sequence[Reading],
    conv_layers: Any,
    sample_rate: int,
    result: dict[str, Any],
) -> None:
    """fairseq's hypo.word, hypo.units, ref.word and ref.units, a line `text (None-index)` for each utterance,
    hypo.jsonl and results.json.

    hypo.jsonl has the words' times, confidence, the other hypotheses and what went wrong; results.json has `result`.
    Each is written whole or not at all, and references that a former run left are removed where this one has none.
    """
    best = [reading.hypotheses[0] for reading in readings]
    texts = {"hypo.word": [found.text for found in best], "hypo.units": [found.unit_text for found in best]}
    if testset.references:
        texts["ref.word"] = testset.references
    if testset.unit_references:
        texts["ref.units"] = testset.unit_references
    contents = {
        name: "".join(f"{line} (None-{index})\n" for index, line in enumerate(lines)) for name, lines in texts.items()
    }
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
