#!/usr/bin/env python3
"""Report how well a fine-tuned model transcribes unseen voices, from the results of fairseq-infer.

    python report_recognition.py GREEDY [WORDS]

GREEDY and WORDS are `--results-path` folders: of greedy decoding, and of decoding with lexicon and language model.
Exits with 1 if the error rates are too high.
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
    """Error rates in %, and examples."""

    utterances: int
    seconds: float
    speakers: int | None
    cer: float  # greedy, as is `wer`
    wer: float
    wer_words: float | None  # with lexicon and language model; None: skipped
    examples: list[dict[str, str]]  # keys: said, greedy, and words if decoded

    def shortfalls(self) -> list[str]:
        """Return the criteria that the model does not meet; empty if it meets all."""
        missing = []
        if not self.cer < MAX_CER:
            missing.append(f"the character error rate is not below {MAX_CER:g} %")
        if self.wer_words is not None and not self.wer_words < MAX_WER:
            missing.append(f"the word error rate with lexicon and language model is not below {MAX_WER:g} %")
        return missing


def read_lines(path: Path) -> list[str]:
    """Read the texts of fairseq's hypo.word or ref.word, without their numbers.

    Raises:
        ValueError: the file does not exist, or a line is malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}. Check whether fairseq-infer ended with an error"
        ) from error
    texts = []
    for number, line in enumerate(lines, start=1):
        found = _NUMBERED.fullmatch(line)
        if found is None:
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} must end in (None-NUMBER), as written by fairseq-infer"
            )
        texts.append(found["text"] or "")
    return texts


def read_results(folder: Path) -> dict[str, Any]:
    """Read results.json.

    Raises:
        ValueError: the file does not exist, or has no error rates.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no results.json. Check whether fairseq-infer ended with an error")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "rates" not in results:
        raise ValueError(f"{path} has no error rates: fairseq-infer ran without labels")
    return results


def read_decoded(greedy: Path, words: Path | None) -> Recognised:
    """Read the results of one or two decodings of the same test set."""
    results = read_results(greedy)
    rates = results["rates"]
    texts = {"said": read_lines(greedy / "ref.word"), "greedy": read_lines(greedy / "hypo.word")}
    wer_words = None
    if words is not None:
        wer_words = read_results(words)["rates"]["wer"]["rate"]
        texts["words"] = read_lines(words / "hypo.word")
    if len({len(lines) for lines in texts.values()}) != 1:
        raise ValueError(
            f"{greedy} and {words} have different numbers of utterances: they must be of the same test set"
        )
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
    """Return the report: a table, examples, and an interpretation."""
    voices = f" of {found.speakers} voices" if found.speakers is not None else ""
    words = "skipped" if found.wer_words is None else f"{found.wer_words:8.2f} %"
    lines = [
        f"Results on {found.utterances} sentences{voices} not used for training ({found.seconds / 60:.1f} min)",
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
        lines.append(f"The error rates are too high: {'; '.join(missing)}.")
        lines.append("`fairseq-infer ... --explain` looks for known causes; more updates can also help.")
    else:
        lines.append(
            "From minutes of transcribed speech, the model learned which letters match which sounds, also in voices it "
            "was not trained on."
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("greedy", type=Path, help="results folder of greedy decoding")
    parser.add_argument(
        "words", type=Path, nargs="?", help="results folder of decoding with lexicon and language model"
    )
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
