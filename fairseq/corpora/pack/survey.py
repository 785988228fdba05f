"""Go through a source without its audio: how much there is, whether it has changed, and whether its texts make labels.

So mistakes are found before hours of work, and a killed command can tell whether it continues the same pack.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tqdm import tqdm

from fairseq.corpora.pack.keys import Keys
from fairseq.corpora.pack.record import to_line
from fairseq.corpora.pack.source import Item, Source
from fairseq.data.dictionary import Dictionary
from fairseq.data.transcripts import case_warning, check_units, clean, letters

logger = logging.getLogger(__name__)
_SHOWN = 5  # utterances listed in a message


class LabelRules(NamedTuple):
    """How transcripts become labels; the rules of prepare_labels."""

    case: str = "upper"
    keep: str = "'"
    drop: bool = False  # leave utterances without a transcript out
    prepared: bool = False  # texts are labels already

    def words(self, text: str | None, removed: Counter[str] | None = None) -> str:
        """Return the words of a transcript; "" if it is empty."""
        if self.prepared:
            return text or ""
        return clean(text or "", self.case, self.keep, removed)


class Survey(NamedTuple):
    """What a source contains."""

    items: int
    digest: str  # of everything but the audio
    size: int  # bytes in the shards, estimated; 0 if unknown
    keys: Keys
    has_texts: bool  # at least one utterance has a transcript
    has_labels: bool


def take(source: Source, rules: LabelRules | None, dictionary: Dictionary | None, what: str) -> Survey:
    """Go through a source.

    Args:
        source: the source.
        rules: how its transcripts become labels; None: no labels.
        dictionary: the letters that the labels may have; None: any.
        what: description of the dictionary.
    Raises:
        ValueError: it has no utterances, some of them have no transcript, or the dictionary lacks letters.
    """
    digest, keys, size, count = hashlib.sha256(), Keys(), 0, 0
    texts = _Texts(rules)
    for item in tqdm(source.items(audio=False), desc="listing", unit="utt", disable=None):
        digest.update(_identity(item))
        keys.add(item.key)
        size += item.size
        count += 1
        texts.add(item)
    if count == 0:
        raise ValueError("the source has no utterances.")
    keys.close()
    has_labels = texts.check(count)
    if has_labels and rules is not None and dictionary is not None:
        lines = (letters(words) for item in source.items(audio=False) if (words := rules.words(item.text)))
        check_units("the transcripts", lines, dictionary, what)
    return Survey(count, digest.hexdigest(), size, keys, texts.some, has_labels)


def _identity(item: Item) -> bytes:
    return to_line(
        {
            "origin": item.origin,
            "key": item.key,
            "place": item.place,
            "start": item.start,
            "frames": item.frames,
            "seconds": None if item.seconds is None else list(item.seconds),
            "text": item.text,
            "speaker": item.speaker,
            "rest": dict(item.rest),
            "stamp": item.stamp,
            "problem": item.problem,
        }
    )


class _Texts:
    """Counts the transcripts of a source."""

    def __init__(self, rules: LabelRules | None) -> None:
        self.rules = rules
        self.missing = 0
        self.some = False
        self.without: list[str] = []
        self.warned = False

    def add(self, item: Item) -> None:
        self.some = self.some or bool(item.text)
        if self.rules is None:
            return
        if not self.warned and item.text and not self.rules.prepared:
            warning = case_warning(item.text, item.origin, self.rules.case)
            if warning is not None:
                logger.warning(warning)
                self.warned = True
        if not self.rules.words(item.text):
            self.missing += 1
            if len(self.without) < _SHOWN:
                self.without.append(item.origin)

    def check(self, count: int) -> bool:
        """Return whether there are transcripts; raises ValueError if only some utterances have one."""
        if self.rules is None or self.missing == count:
            return False
        if self.missing and not self.rules.drop:
            raise ValueError(
                f"{self.missing:,} of {count:,} utterances have no transcript: {_listed(self.without, self.missing)}. "
                "Use --drop to leave them out, or --no-labels to pack all of them without label files."
            )
        return True


def _listed(names: Iterable[str], count: int) -> str:
    shown = list(names)
    return "; ".join(shown) + (" ..." if count > len(shown) else "")
