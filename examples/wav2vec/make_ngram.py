#!/usr/bin/env python3
"""Make an n-gram language model in ARPA format from text, for `fairseq-infer --lm`.

The text has one sentence per line, with spaces between words.

    python make_ngram.py train.wrd more.txt --output words.arpa [--order 3] [--lexicon lexicon.txt]

The words must be those of the labels, as in `.wrd` files. --case prepares other text as prepare_labels.py does: no
punctuation, the same case and the same Unicode form (NFC). Smoothing is interpolated Witten-Bell, which needs no
tuning and suits small texts (Chen and Goodman 1998, section 2.5): with c(h) words counted after a history h, T(h) of
them distinct, and h' the history without its first word,

    p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h)),    p(w | nothing at all) = 1 / (words + </s> + <unk>).

All n-grams are kept in memory: 10 million words take a few GB. For larger texts, use KenLM's lmplz.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairseq.data.transcripts import CASES, clean
from fairseq.text_files import iterate_lines, split

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # ARPA's log10 of probability 0: <s> is never predicted

Ngram = tuple[str, ...]


class NgramModel:
    """Interpolated Witten-Bell estimates.

    Args:
        sentences: the words of each sentence.
        order: length of the longest n-grams, at least 1.
    Raises:
        ValueError: the order is below 1, or there are no words.
    """

    def __init__(self, sentences: Iterable[list[str]], order: int) -> None:
        if order < 1:
            raise ValueError(f"the order of the model is {order}; it must be at least 1")
        self.order = order
        # by length 1, 2, ...; no n-gram ends in <s>
        self.counts: list[Counter[Ngram]] = [Counter() for _ in range(order)]
        for words in sentences:
            self._count([BEGIN, *words, END])
        if len(self.counts[0]) <= 1:
            raise ValueError("the text has no words")
        self.words = sorted(word for (word,) in self.counts[0] if word != END)
        self._after: dict[Ngram, int] = defaultdict(int)  # c(h)
        self._types: dict[Ngram, int] = defaultdict(int)  # T(h)
        for counts in self.counts:
            for ngram, count in counts.items():
                self._after[ngram[:-1]] += count
                self._types[ngram[:-1]] += 1

    def _count(self, text: list[str]) -> None:
        for end in range(1, len(text)):
            for length in range(1, min(self.order, end + 1) + 1):
                self.counts[length - 1][tuple(text[end - length + 1 : end + 1])] += 1

    def probability(self, word: str, history: Ngram = ()) -> float:
        """Return the probability of a word after a history, of which the last order - 1 words are used.

        Args:
            word: a word of the text, </s>, or <unk> for any other word.
        """
        history = history[max(0, len(history) - self.order + 1) :]
        share = 1 / (len(self.words) + 2)
        for begin in range(len(history), -1, -1):
            context = history[begin:]
            if context not in self._after:
                break  # longer histories do not occur either
            count = self.counts[len(context)][(*context, word)]
            share = (count + self._types[context] * share) / (self._after[context] + self._types[context])
        return share

    def back_off(self, history: Ngram) -> float:
        """Return the factor on the shorter history's probabilities for words never seen after this history."""
        return self._types[history] / (self._after[history] + self._types[history]) if history in self._after else 1.0

    def ngrams(self, length: int) -> Iterator[tuple[Ngram, float]]:
        """Yield n-grams of `length` words, sorted, with the log10 probability of their last word."""
        if length == 1:
            yield (BEGIN,), NEVER
            yield (UNKNOWN,), math.log10(self.probability(UNKNOWN))
        for ngram in sorted(self.counts[length - 1]):
            yield ngram, math.log10(self.probability(ngram[-1], ngram[:-1]))

    def write_arpa(self, path: Path) -> None:
        """Write the model, with seven decimals."""
        sizes = [len(counts) + (2 if length == 1 else 0) for length, counts in enumerate(self.counts, start=1)]
        with path.open("w", encoding="utf-8") as file:
            file.write("\\data\\\n" + "".join(f"ngram {length}={size}\n" for length, size in enumerate(sizes, start=1)))
            for length in range(1, self.order + 1):
                file.write(f"\n\\{length}-grams:\n")
                for ngram, log_probability in self.ngrams(length):
                    line = f"{log_probability:.7f}\t{' '.join(ngram)}"
                    if length < self.order and ngram in self._after:
                        line += f"\t{math.log10(self.back_off(ngram)):.7f}"
                    file.write(line + "\n")
            file.write("\n\\end\\\n")


def read_sentences(paths: Iterable[Path], case: str | None = None, keep: str = "'") -> Iterator[list[str]]:
    """Yield the words of each non-empty line.

    Args:
        case: convert the text as `transcripts.clean` does, with this case; None: take it as it is.
        keep: with a case, characters to keep in words besides letters and digits.
    Raises:
        ValueError: a file cannot be read, or has the model's own marks; the message names the line.
    """
    for path in paths:
        for number, line in enumerate(iterate_lines(path, "the text"), start=1):
            words = split(line if case is None else clean(line, case, keep))
            marks = {BEGIN, END, UNKNOWN}.intersection(words)
            if marks:
                raise ValueError(
                    f"{path}, line {number}: {' '.join(sorted(marks))} is not a word; remove such marks from the text"
                )
            if words:
                yield words


def write_lexicon(path: Path, words: Iterable[str]) -> None:
    """Write a line `WORD<TAB>W O R D |` for each word."""
    path.write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in words), encoding="utf-8")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", type=Path, metavar="TEXT", help="files with one sentence per line")
    parser.add_argument("--output", required=True, type=Path, metavar="ARPA", help="language model to write")
    parser.add_argument("--order", type=int, default=3, metavar="N", help="length of the longest n-grams (default: 3)")
    parser.add_argument(
        "--case",
        choices=CASES,
        help="prepare the text like labels, with the --case of prepare_labels.py (default: take it as it is)",
    )
    parser.add_argument(
        "--keep",
        default="'",
        metavar="CHARS",
        help="with --case: characters to keep in words in addition to letters and digits (default: ')",
    )
    parser.add_argument(
        "--lexicon",
        type=Path,
        metavar="FILE",
        help="also write a lexicon of the text's words, spelled by their letters",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    model = NgramModel(read_sentences(args.text, args.case, args.keep), args.order)
    for path in filter(None, (args.output, args.lexicon)):
        path.parent.mkdir(parents=True, exist_ok=True)
    model.write_arpa(args.output)
    if args.lexicon is not None:
        write_lexicon(args.lexicon, model.words)
    sizes = ", ".join(f"{len(counts)} {length}-grams" for length, counts in enumerate(model.counts, start=1))
    print(f"made {args.output}: {len(model.words)} words; {sizes}")
    if args.order == 1:
        print(
            "KenLM cannot load a model with only unigrams: fairseq-infer --lm needs --order 2 or more", file=sys.stderr
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(get_parser().parse_args()))
    except ValueError as error:
        sys.exit(f"error: {error}")
