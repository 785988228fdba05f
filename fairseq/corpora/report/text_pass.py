"""The labels beside a manifest: what is usual in them, then every line judged by that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from fairseq import text_files
from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.records import ERROR, Finding, Histogram, Line, Text, Usual
from fairseq.corpora.report.text_rules import TEXT_RULES, Labelled, case_of, script_of
from fairseq.data.dictionary import Dictionary
from fairseq.data.transcripts import WORD_END

LABELS = (".ltr", ".wrd")
PART = 2000  # lines per task
_MOST_WORDS = 1_000_000  # different words that are counted; beyond, only known ones


class Piece(NamedTuple):
    """Consecutive lines of a corpus's labels: a task of this pass."""

    corpus: int
    begin: int  # index of the first utterance
    seconds: np.ndarray  # length of each utterance; 0: unknown
    offsets: tuple[int | None, ...]  # of the first line's bytes in each of LABELS; None: no such file
    usual: Usual | None = None  # judge by this


class Texts:
    """What the labels of a corpus are; parts of it add up."""

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

    def merge(self, other: Texts) -> None:
        self.lines += other.lines
        self.units.update(other.units)
        self.num_words += other.num_words
        self.rate.merge(other.rate)
        if len(self.words) < _MOST_WORDS:
            self.words.update(other.words)
            return
        for word, count in other.words.items():
            if word in self.words:
                self.words[word] += count
            else:
                self.words_left_out += count


# runs a function on all pieces, in other processes if there are any
Mapping = Callable[[Callable[[object, Piece], Texts], list[Piece]], Iterator[Texts]]


def read_texts(number: int, corpus: Corpus, seconds: np.ndarray, over: Mapping) -> Texts | None:
    """Read and judge a corpus's labels; None if it has no labels.

    Args:
        number: of the corpus in the workers' state.
        corpus: the corpus.
        seconds: length of every utterance; 0: unknown.
        over: runs the pieces.
    Raises:
        ValueError: a label file or the dictionary is not UTF-8 or is malformed; names file and line.
    """
    paths = [corpus.beside(ending) for ending in LABELS]
    if not any(paths):
        return None
    texts = Texts()
    offsets: list[list[int] | None] = []
    for ending, path in zip(LABELS, paths, strict=True):
        if path is None:
            offsets.append(None)
            continue
        found, count = _offsets(path)
        offsets.append(found)
        if count != len(corpus):
            texts.findings.append(_other_number(corpus, ending, path, count))
    pieces = [
        Piece(
            number,
            place * PART,
            seconds[place * PART : (place + 1) * PART],
            tuple(None if column is None or place >= len(column) else column[place] for column in offsets),
        )
        for place in range(-(-len(corpus) // PART))
    ]
    for part in over(count_piece, pieces):
        texts.merge(part)
    texts.usual = _usual(texts)
    if texts.findings:
        return texts  # each line would be judged by another utterance
    for part in over(judge_piece, [piece._replace(usual=texts.usual) for piece in pieces]):
        for name, hits in part.hits.items():
            texts.hits[name].merge(hits)
    return texts


def _offsets(path: str) -> tuple[list[int], int]:
    """Return the offset of every PART-th line of a file, and the number of its lines."""
    offsets, place, count = [], 0, 0
    with text_files.named_errors(path, "the labels"), open(path, "rb") as file:
        start = file.read(len(text_files.BOM))
        if start.startswith(text_files.UTF16_MARKS):
            raise ValueError(f"the labels {path} are UTF-16. Save them as UTF-8.")
        place = len(text_files.BOM) if start == text_files.BOM else 0
        file.seek(place)
        for line in file:
            if count % PART == 0:
                offsets.append(place)
            place += len(line)
            count += 1
    return offsets, count


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


def count_piece(state: object, piece: Piece) -> Texts:
    """Count units and words; `state` is the list of corpora."""
    texts, rates = Texts(), []
    for text in _records(state, piece):
        texts.lines += 1
        texts.units.update(text.units)
        words = text.spelled if text.words is None else text.words
        texts.num_words += len(words)
        texts.words.update(words)
        if text.seconds and text.units:
            rates.append(len(text.units) / text.seconds)
    texts.rate.add(np.asarray(rates))
    return texts


def judge_piece(state: object, piece: Piece) -> Texts:
    """Judge lines by what is usual; `state` is the list of corpora."""
    texts = Texts()
    assert piece.usual is not None
    for index, text in enumerate(_records(state, piece), start=piece.begin):
        TEXT_RULES.apply(index, Labelled(text, piece.usual), texts.hits)
    return texts


def _records(state: object, piece: Piece) -> Iterator[Text]:
    """Yield the labels of a piece's utterances; without .ltr, the words' letters."""
    assert isinstance(state, list)
    corpus: Corpus = state[piece.corpus]
    letters, words = (
        _lines(corpus.beside(ending), offset, piece) for ending, offset in zip(LABELS, piece.offsets, strict=True)
    )
    has_letters, known = corpus.beside(".ltr") is not None, _known(corpus.dictionary)
    for line, spoken, seconds in zip(letters, words, piece.seconds.tolist(), strict=True):
        parts = None if spoken is None else tuple(spoken.split())
        if not has_letters:
            yield Text(tuple("".join(parts or ())), parts, parts or (), seconds, ())
            continue
        units = (line or "").split()
        unknown = () if known is None else tuple(set(units) - known)
        spelled = tuple([word for word in "".join(units).split(WORD_END) if word])
        yield Text(tuple([unit for unit in units if unit != WORD_END]), parts, spelled, seconds, unknown)


def _lines(path: str | None, offset: int | None, piece: Piece) -> Iterator[str | None]:
    """Yield a line of a label file for each utterance of a piece; None where there is no line."""
    if path is None or offset is None:
        yield from (None for _ in piece.seconds)
        return
    with text_files.named_errors(path, "the labels"), open(path, "rb") as file:
        file.seek(offset)
        for index in range(piece.begin, piece.begin + len(piece.seconds)):
            line = file.readline()
            try:
                yield line.decode("utf-8").rstrip("\r\n") if line else None
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"cannot read the labels {path}, line {index + 1}: byte {error.start + 1} of the line is not "
                    "UTF-8. Save the file as UTF-8."
                ) from error


@cache
def _known(dictionary: str | None) -> frozenset[str] | None:
    return None if dictionary is None else frozenset(Dictionary.load(dictionary).indices)


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
