"""The labels beside a manifest: what is usual in them, then every line judged by that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from fairseq import text_files
from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.records import ERROR, Finding, Histogram, Line, Text, Usual
from fairseq.corpora.report.text_rules import TEXT_RULES, Labelled, case_of, script_of
from fairseq.data.dictionary import Dictionary
from fairseq.data.transcripts import WORD_END

LABELS = (".ltr", ".wrd")
_MOST_WORDS = 1_000_000  # different words that are counted; beyond, only known ones


class Texts:
    """What the labels of a corpus are."""

    def __init__(self) -> None:
        self.lines = 0
        self.units: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.num_words = 0
        self.words_left_out = 0  # occurrences of words past the most that are counted
        self.rate = Histogram(np.arange(0, 60.25, 0.25))  # units per second
        self.hits = TEXT_RULES.no_hits()
        self.findings: list[Finding] = []  # about the whole file
        self.usual = Usual(0.0, 0.0, 0.0, "", 0.0, "", 0.0)


def read_texts(corpus: Corpus, seconds: np.ndarray) -> Texts | None:
    """Read and judge a corpus's labels; None if there are none.

    Args:
        seconds: length of every utterance; 0: unknown.
    Raises:
        ValueError: a label file or the dictionary is not UTF-8 or is malformed; names file and line.
    """
    paths = {ending: path for ending in LABELS if (path := corpus.beside(ending)) is not None}
    if not paths:
        return None
    dictionary = Dictionary.load(corpus.dictionary) if corpus.dictionary and ".ltr" in paths else None
    texts = Texts()
    for ending, path in paths.items():
        count = sum(1 for _ in text_files.iterate_lines(path, "the labels"))
        if count != len(corpus):
            texts.findings.append(_other_number(corpus, ending, path, count))
    for text in _records(paths, seconds, None):
        _count(texts, text)
    texts.usual = _usual(texts)
    if any(finding.name == "label-lines" for finding in texts.findings):
        return texts  # each line would be judged by another utterance
    for index, text in enumerate(_records(paths, seconds, dictionary)):
        TEXT_RULES.apply(index, Labelled(text, texts.usual), texts.hits)
    return texts


def _other_number(corpus: Corpus, ending: str, path: str, count: int) -> Finding:
    line = Line(path, min(count, len(corpus)), "the last line that both have", "")
    return Finding(
        "label-lines",
        ERROR,
        f"{path} has {count:,} lines, but {corpus.path} has {len(corpus):,} utterances",
        f"Create the labels again with fairseq-prepare-labels: the {ending} file needs one line per utterance.",
        1,
        [line],
    )


class _Split(NamedTuple):
    units: tuple[str, ...]
    spelled: tuple[str, ...]


def _split(letters: str) -> _Split:
    words = [word.split() for word in letters.split(WORD_END)]
    return _Split(tuple(unit for word in words for unit in word), tuple("".join(word) for word in words if word))


def _records(paths: dict[str, str], seconds: np.ndarray, dictionary: Dictionary | None) -> Iterator[Text]:
    """Yield the labels of the utterances; without .ltr, the words' letters."""
    letters, words = (
        text_files.iterate_lines(paths[ending], "the labels") if ending in paths else iter(()) for ending in LABELS
    )
    for index, (line, spoken) in enumerate(zip_longest(letters, words)):
        parts = None if spoken is None else tuple(spoken.split())
        if ".ltr" in paths:
            units, spelled = _split(line or "")
        else:
            units, spelled = tuple(letter for word in parts or () for letter in word), parts or ()
        unknown = () if dictionary is None else tuple(unit for unit in (line or "").split() if unit not in dictionary)
        length = float(seconds[index]) if index < len(seconds) else 0.0
        yield Text(units, parts if ".wrd" in paths else None, spelled, length, unknown)


def _count(texts: Texts, text: Text) -> None:
    texts.lines += 1
    texts.units.update(text.units)
    words = text.spelled if text.words is None else text.words
    texts.num_words += len(words)
    if len(texts.words) < _MOST_WORDS:
        texts.words.update(words)
    else:
        for word in words:
            if word in texts.words:
                texts.words[word] += 1
            else:
                texts.words_left_out += 1
    if text.seconds and text.units:
        texts.rate.add(np.asarray([len(text.units) / text.seconds]))


def _usual(texts: Texts) -> Usual:
    scripts: Counter[str] = Counter()
    cases: Counter[str] = Counter()
    for unit, count in texts.units.items():
        for letter in unit:
            scripts[script_of(letter)] += count
            cases[case_of(letter)] += count
    script, script_share = _most(scripts)
    case, case_share = _most(cases)
    low, middle, high = (texts.rate.percentile(percent) for percent in (5, 50, 95))
    return Usual(middle, low, high, script, script_share, case, case_share)


def _most(counts: Counter[str]) -> tuple[str, float]:
    counts.pop("", None)
    if not counts:
        return "", 0.0
    name, count = counts.most_common(1)[0]
    return name, count / counts.total()
