#!/usr/bin/env python3
"""Says how well a fine-tuned model reads voices that it has not heard, from what fairseq-infer wrote.

    python report_recognition.py GREEDY [WORDS]

GREEDY and WORDS are `--results-path`s: of greedy decoding, and of decoding with lexicon and language model. Exits with
1 where the model did not learn to read.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

MAX_CER = 50.0  # greedy, in %
MAX_WER = 60.0  # with lexicon and language model, in %
SHOWN = 4  # utterances
_NUMBERED = re.compile(r"(?P<text>.*) \(None-\d+\)|\(None-\d+\)")


class Recognised(NamedTuple):
    """Error rates in %, and readings."""

    utterances: int
    seconds: float
    speakers: int | None
    cer: float  # greedy, as is the next one
    wer: float
    wer_words: float | None  # with lexicon and language model; None: left out
    examples: list[dict[str, str]]  # said, greedy, and words where there are any

    def shortfalls(self) -> list[str]:
        """What is missing for "learned to read"; empty where nothing is."""
        missing = []
        if not self.cer < MAX_CER:
            missing.append(f"the character error rate is not below {MAX_CER:g} %")
        if self.wer_words is not None and not self.wer_words < MAX_WER:
            missing.append(f"the word error rate with lexicon and language model is not below {MAX_WER:g} %")
        return missing


def read_lines(path: Path) -> list[str]:
    """The texts of fairseq's hypo.word or ref.word, without their numbers.

    Raises:
        ValueError: no such file, or a line of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}. Did fairseq-infer end with an error?") from error
    texts = []
    for number, line in enumerate(lines, start=1):
        found = _NUMBERED.fullmatch(line)
        if found is None:
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} does not end in (None-NUMBER), as fairseq-infer writes it"
            )
        texts.append(found["text"] or "")
    return texts


def read_results(folder: Path) -> dict[str, Any]:
    """results.json.

    Raises:
        ValueError: there is none, or it has no error rates.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"no results.json in {folder}. Did fairseq-infer end with an error?")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "rates" not in results:
        raise ValueError(f"{path} has no error rates: fairseq-infer ran without labels")
    return results


def read_decoded(greedy: Path, words: Path | None) -> Recognised:
    """What one or two decodings of the same test set show."""
    results = read_results(greedy)
    rates = results["rates"]
    texts = {"said": read_lines(greedy / "ref.word"), "greedy": read_lines(greedy / "hypo.word")}
    wer_words = None
    if words is not None:
        wer_words = read_results(words)["rates"]["wer"]["rate"]
        texts["words"] = read_lines(words / "hypo.word")
    if len({len(lines) for lines in texts.values()}) != 1:
        raise ValueError(f"{greedy} and {words} hold different numbers of utterances: they are of different test sets")
    count = len(texts["said"])
    chosen = sorted({number * count // SHOWN for number in range(SHOWN)}) if count else []
    examples = [{name: lines[number] for name, lines in texts.items()} for number in chosen]
    rate = rates["wer"]
    return Recognised(
        count,
        results["audio_seconds"],
        rate.get("num_speakers"),
        rates["cer"]["rate"],
        rate["rate"],
        wer_words,
        examples,
    )


def describe(found: Recognised) -> str:
    """The report: a table, some readings, and what it means."""
    voices = f" of {found.speakers} voices" if found.speakers is not None else ""
    words = "left out" if found.wer_words is None else f"{found.wer_words:8.2f} %"
    lines = [
        f"How it reads {found.utterances} sentences{voices} that it has not heard ({found.seconds / 60:.1f} min)",
        f"  character errors, greedy                    {found.cer:8.2f} %",
        f"  word errors, greedy                         {found.wer:8.2f} %",
        f"  word errors, lexicon and language model     {words}",
        "",
    ]
    names = {"said": "said", "greedy": "greedy", "words": "with words"}
    for example in found.examples:
        lines += [f"  {names[name]:<12}{text}" for name, text in example.items()] + [""]
    missing = found.shortfalls()
    if missing:
        lines.append(f"The model did NOT learn to read: {'; '.join(missing)}.")
        lines.append("`fairseq-infer ... --explain` says which of the known causes fits; more updates help too.")
    else:
        lines.append(
            "In words: from minutes of transcribed speech the model learned which letters stand for which sounds, "
            "in voices it never met."
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("greedy", type=Path, help="results of greedy decoding")
    parser.add_argument("words", type=Path, nargs="?", help="and of decoding with lexicon and language model")
    args = parser.parse_args()
    try:
        found = read_decoded(args.greedy, args.words)
    except ValueError as error:
        print(f"report_recognition.py: {error}", file=sys.stderr)
        return 2
    print(describe(found))
    return 1 if found.shortfalls() else 0


if __name__ == "__main__":
    sys.exit(main())
