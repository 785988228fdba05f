"""Rules over labels, judged beside what is usual in their corpus."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

from fairseq.corpora.report.records import ERROR, WARNING, Text, Usual
from fairseq.corpora.report.rules import Rules


class Labelled(NamedTuple):
    """An utterance's labels, and what is usual in its corpus."""

    text: Text
    usual: Usual


TEXT_RULES: Rules[Labelled] = Rules()
_FASTEST = 30.0  # units per second; fast speech has 20 letters
_FAST, _SLOW = 2.5, 0.2  # times the corpus's median
_FAST_TAIL, _SLOW_TAIL = 1.5, 0.5  # times its 95th and 5th percentiles: where rates differ widely, more is usual
_FEW_UNITS, _SLOW_SECONDS = 10, 3.0  # fewer letters are not judged as fast, and shorter utterances not as slow
_USUAL = 0.95  # share of letters in one script or case, from which others are foreign
_SHOWN = 5


@cache
def script_of(letter: str) -> str:
    """Return the script of a letter as its Unicode name begins, such as LATIN; "" for other characters."""
    if not letter.isalpha():
        return ""
    return unicodedata.name(letter, "").partition(" ")[0]


@TEXT_RULES.rule(
    "empty-label",
    ERROR,
    "Utterances without a transcript",
    "Remove them, or add the transcripts. Fine-tuning leaves them out.",
)
def empty(labelled: Labelled) -> str | None:
    return None if labelled.text.units else ""


@TEXT_RULES.rule(
    "not-in-dictionary",
    ERROR,
    "Labels that the dictionary does not have",
    "Correct the labels, or create the dictionary from them with fairseq-prepare-labels. Fine-tuning refuses them.",
)
def unknown(labelled: Labelled) -> str | None:
    units = sorted(set(labelled.text.unknown))
    return " ".join(map(repr, units[:_SHOWN])) if units else None


@TEXT_RULES.rule(
    "too-fast",
    WARNING,
    "More text than anybody says in this time",
    "The transcript belongs to another utterance, or the audio is cut: compare them.",
)
def too_fast(labelled: Labelled) -> str | None:
    text, usual = labelled
    rate = len(text.units) / text.seconds if text.seconds else 0.0
    most = max(_FAST * usual.rate, _FAST_TAIL * usual.fast_rate)
    if rate <= _FASTEST and (rate <= most or len(text.units) < _FEW_UNITS):
        return None
    return f"{rate:.0f} letters a second; the median is {usual.rate:.0f}"


@TEXT_RULES.rule(
    "too-slow",
    WARNING,
    "Much less text than audio",
    "The transcript is incomplete, or the audio has long silence: compare them.",
)
def too_slow(labelled: Labelled) -> str | None:
    text, usual = labelled
    least = min(_SLOW * usual.rate, _SLOW_TAIL * usual.slow_rate)
    if not text.units or text.seconds < _SLOW_SECONDS or len(text.units) / text.seconds >= least:
        return None
    return f"{len(text.units)} letters in {text.seconds:.1f} s; the median is {usual.rate:.0f} a second"


@TEXT_RULES.rule(
    "wrong-script",
    WARNING,
    "Letters of another script",
    "Foreign words, or letters that only look right, such as Cyrillic А in Latin text: replace them.",
)
def wrong_script(labelled: Labelled) -> str | None:
    text, usual = labelled
    if usual.script_share < _USUAL:
        return None
    odd = sorted(letter for letter in text.letters() if script_of(letter) not in ("", usual.script))
    return ", ".join(f"{letter} ({script_of(letter).title()})" for letter in odd[:_SHOWN]) if odd else None


@TEXT_RULES.rule(
    "mixed-case",
    WARNING,
    "Letters of another case",
    "Use one case: fairseq-prepare-labels --case upper.",
)
def mixed_case(labelled: Labelled) -> str | None:
    text, usual = labelled
    if not _USUAL <= usual.case_share < 1:
        return None
    odd = sorted(letter for letter in text.letters() if case_of(letter) not in ("", usual.case))
    return ", ".join(odd[:_SHOWN]) if odd else None


def case_of(letter: str) -> str:
    return "upper" if letter.isupper() else "lower" if letter.islower() else ""


@TEXT_RULES.rule(
    "words-differ",
    ERROR,
    "Letters (.ltr) that spell other words than the word labels (.wrd)",
    "Create both again with fairseq-prepare-labels: one of the files may be shifted by a line.",
)
def words_differ(labelled: Labelled) -> str | None:
    text = labelled.text
    if text.words is None or text.words == text.spelled:
        return None
    return f"{' '.join(text.spelled)[:40]!r}, {' '.join(text.words)[:40]!r}"
