"""What somebody should know about the texts of a corpus in any language before training on them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

_SELDOM = 3  # a letter that occurs less often is hardly learned
_ENOUGH = 200  # letters of a corpus in which that says something
_LONG = 12  # letters of a "word" that is a sentence
_SHOWN = 8
_TATWEEL = "\u0640"  # stretches Arabic words; never said
# kinds of Unicode's compatibility characters that are another form of a letter, never a letter of their own
_FORMS = {"<wide>", "<narrow>", "<initial>", "<medial>", "<final>", "<isolated>"}


def notes(texts: Sequence[str]) -> Iterator[str]:
    """Yield what is unusual in cleaned transcripts, as whole sentences with what to do.

    Args:
        texts: words separated by spaces, as `transcripts.clean` returns.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.replace(" ", ""))
    digits = [text for text in texts if _has_digits(text)]
    if digits:
        yield (
            f"transcripts with digits: {len(digits)}, such as {digits[0][:40]!r}. Speech has words: write numbers as "
            "they are said."
        )
    forms = sorted(character for character in counts if is_form(character))
    if forms:
        yield (
            f"the texts have other forms of plain letters: {_shown(forms)}. Convert the transcripts: Unicode NFKC, and "
            "without the tatweel."
        )
    words = [word for text in texts for word in text.split()]
    if words and len(words) < 1.2 * len(texts) and sum(map(len, words)) > _LONG * len(words):
        yield (
            "the texts have hardly any spaces, so an utterance is one word. Judge results by CER, not WER, and use a "
            "language model of letters: make_ngram.py with the .ltr file."
        )
    seldom = sorted(character for character, count in counts.items() if count < _SELDOM)
    if seldom and counts.total() >= _ENOUGH:
        yield (
            f"letters that occur fewer than {_SELDOM} times are hardly learned: {_shown(seldom)}. Check that they are "
            "not mistakes."
        )


def _has_digits(text: str) -> bool:
    """Whether text has digits or number signs; Chinese numerals, which are words, do not count."""
    return any(unicodedata.category(character)[0] == "N" for character in text)


def is_form(character: str) -> bool:
    """Whether a character is another form of a letter: full width, Arabic presentation forms, ligatures, tatweel."""
    if character == _TATWEEL or "\ufb00" <= character <= "\ufb06":
        return True
    return unicodedata.decomposition(character).partition(" ")[0] in _FORMS


def _shown(characters: Sequence[str]) -> str:
    shown = " ".join(f"{character} (U+{ord(character):04X})" for character in characters[:_SHOWN])
    more = len(characters) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
