"""Results of an evaluation, as text and as the files that fairseq writes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from fairseq.decoding.beam import BeamDecoder
from fairseq.evaluation.error_rates import Bounds, Rate
from fairseq.evaluation.evaluation import Evaluation
from fairseq.evaluation.explain import Explanation
from fairseq.inference.formats import as_dict, json_line
from fairseq.inference.transcript import FrameTimes, from_hypotheses

if TYPE_CHECKING:
    from typing_extensions import NotRequired  # typing has it from Python 3.11 on


class Files(NamedTuple):
    """Paths of the model's and decoder's files."""

    checkpoint: str
    lexicon: str | None
    lm: str | None


class Result(TypedDict):
    """What `fairseq-infer` prints and writes to results.json."""

    checkpoint: str
    subset: str
    utterances: int
    audio_seconds: float
    decoder: dict[str, str | float | bool | None]  # its kind; for a beam search also its files and settings
    unreadable: int
    empty: int
    blank_share: float  # of the frames
    symbols_used: list[int]  # symbols predicted in some frame, and symbols in all
    rates: NotRequired[dict[str, Rate]]  # if there are references
    explanation: NotRequired[list[dict[str, str]]]  # if requested
    seconds: NotRequired[float]  # run time; the last entry of the file


def result_of(
    evaluation: Evaluation,
    files: Files,
    rates: dict[str, Rate] | None,
    explanations: Sequence[Explanation] | None,
    seconds: float,
) -> Result:
    """Collect the settings, output statistics and rates of an evaluation.

    Args:
        rates: None if there are no references.
        explanations: None if not requested.
        seconds: run time.
    """
    model, decoder, readings, outputs = evaluation.model, evaluation.decoder, evaluation.readings, evaluation.outputs
    tokens = model.dictionary()
    kind: dict[str, str | float | bool | None] = {"kind": "greedy"}
    if isinstance(decoder, BeamDecoder):
        kind = {"kind": "beam", "lexicon": files.lexicon, "lm": files.lm, "engine": decoder.engine}
        kind |= {"hotwords": len(decoder.guidance.hotwords)} if decoder.guidance.hotwords else {}
        kind |= {
            name: value for name, value in vars(decoder.settings).items() if value is not None and math.isfinite(value)
        }
    result: Result = {
        "checkpoint": files.checkpoint,
        "subset": evaluation.testset.name,
        "utterances": len(evaluation.testset),
        "audio_seconds": round(sum(reading.num_samples for reading in readings) / model.sample_rate, 1),
        "decoder": kind,
        "unreadable": sum(reading.error is not None for reading in readings),
        "empty": sum(not reading.hypotheses[0].text for reading in readings),
        "blank_share": round(outputs.share(tokens.blank), 4),
        "symbols_used": [outputs.used(tokens.silent), len(tokens.symbols) - len(tokens.silent)],
    }
    if rates is not None:
        result["rates"] = rates
    if explanations is not None:
        result["explanation"] = [explanation._asdict() for explanation in explanations]
    result["seconds"] = round(seconds, 2)
    return result


def describe(result: Result, draws: int) -> list[str]:
    """Return the result as lines of text."""
    decoder, tokens, rates = result["decoder"], result["symbols_used"], result.get("rates")
    kind = "greedy decoding" if decoder["kind"] == "greedy" else f"beam search (beam {decoder['beam']})"
    lines = [
        f"{result['subset']}: {result['utterances']} utterances, {result['audio_seconds'] / 60:.1f} min, {kind}, "
        f"{result.get('seconds', 0):.0f} s",
        f"blank in {100 * result['blank_share']:.1f} % of the frames, {tokens[0]} of {tokens[1]} symbols used",
    ]
    if result["unreadable"] or result["empty"]:
        lines.append(f"unreadable utterances: {result['unreadable']}; empty hypotheses: {result['empty']}")
    if rates is not None:
        lines += _describe_rates(rates, draws)
    for found in result.get("explanation", []):
        lines.append(f"explanation: {found['cause']}: {found['evidence']}. {found['advice']}")
    if result.get("explanation") == [] and rates is not None:
        lines.append("explanation: no known cause fits")
    return lines


def _describe_rates(rates: Mapping[str, Rate], draws: int) -> list[str]:
    """Return a table with a row per rate, and a note on the intervals."""
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
        intervals = [found["by_utterance"], *([found["by_speaker"]] if "by_speaker" in found else [])]
        rows.append([name.upper(), rate, str(found["errors"]), str(found["total"]), *map(_interval, intervals)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if rates["wer"]["rate"] is None:
        return [*lines, "all references are empty, so there are no rates"]
    if rates["wer"]["by_utterance"] is None:
        return [*lines, "no intervals: they need more than one utterance"]
    lines.append(f"intervals: {draws} draws with replacement")
    if speakers is None:
        lines.append("no interval over speakers: name the speakers with --speakers or --speaker-pattern")
    elif speakers == 1:
        lines.append("no interval over speakers: it needs more than one speaker")
    return lines


def _interval(bounds: Bounds | None) -> str:
    low, high = bounds or (None, None)
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def write_results(folder: Path, evaluation: Evaluation, result: Result) -> None:
    """Write fairseq's hypo.word, hypo.units, ref.word and ref.units, and hypo.jsonl and results.json.

    fairseq's files have a line `text (None-index)` per utterance. hypo.jsonl has times and confidence of words, the
    other hypotheses, and errors; results.json has `result`. Each file is written atomically, and reference files of an
    earlier run are removed if this run has no references.
    """
    model, testset, readings = evaluation.model, evaluation.testset, evaluation.readings
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
        duration = reading.num_samples / model.sample_rate
        times = FrameTimes(model.conv_layers, model.sample_rate, duration)
        transcript = from_hypotheses(testset.manifest.utterance(reading.index), reading.hypotheses, times, duration)
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
