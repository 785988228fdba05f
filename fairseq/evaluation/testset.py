"""Utterances to recognise: a manifest, and what was said where labels lie beside it."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq import text_files
from fairseq.data.audio.manifest import Manifest
from fairseq.data.data_utils import post_process
from fairseq.data.transcripts import without_invisible
from fairseq.decoding.tokens import DELIMITER, WORD_START, Tokens

logger = logging.getLogger(__name__)

LIBRISPEECH_SPEAKER = r"(?:^|/)(\d+)-\d+-\d+\.\w+$"  # speaker-chapter-utterance


@dataclass
class TestSet:
    """A manifest's utterances.

    `references` are empty where there are no labels, and `unit_references` also where the labels are words and the
    model's units are not.
    """

    name: str
    manifest: Manifest
    label_path: str | None
    unit_references: list[str]  # as the label file has them
    references: list[str]  # words

    __test__ = False  # pytest: no test

    @classmethod
    def read(cls, data: str, subset: str, labels: str | None, tokens: Tokens) -> TestSet:
        """Read <data>/<subset>.tsv and <data>/<subset>.<labels>, which has the dictionary's units, or words.

        Args:
            labels: extension of the label file; None: there is none.
        Raises:
            ValueError: a file or the manifest's root is missing, or the counts of lines differ.
        """
        manifest = Manifest(os.path.join(data, f"{subset}.tsv"))
        manifest.check_root()
        if labels is None:
            return cls(subset, manifest, None, [], [])
        path = os.path.join(data, f"{subset}.{labels}")
        lines = visible(lines_of_utterances(path, len(manifest), manifest.path), path, tokens)
        if has_words(lines, labels, tokens):
            logger.info("%s has words where the model has units of another kind: there is no rate of units", path)
            return cls(subset, manifest, path, [], [" ".join(text_files.split(line)) for line in lines])
        return cls(subset, manifest, path, lines, [post_process(line, tokens.kind) for line in lines])

    def __len__(self) -> int:
        return len(self.manifest)

    def files(self) -> list[str]:
        return [self.manifest.file(index) for index in range(len(self))]

    def speakers(self, file: str | None = None, pattern: str | None = None) -> list[str] | None:
        """Who speaks in each utterance.

        Args:
            file: a line for each utterance.
            pattern: a regular expression whose first group is the speaker in the manifest's path; None takes
                LibriSpeech's file names, and finds nothing in others.
        Raises:
            ValueError: the file has another count of lines, or the pattern does not fit all paths.
        """
        if file is not None:
            return lines_of_utterances(file, len(self), self.manifest.path)
        names = [self.manifest.name(index) for index in range(len(self))]
        try:
            found = [re.search(pattern or LIBRISPEECH_SPEAKER, name) for name in names]
        except re.error as error:
            raise ValueError(f"--speaker-pattern {pattern!r} is no regular expression: {error}") from error
        speakers = [match.group(1) if match is not None and match.groups() else None for match in found]
        missing = [name for name, speaker in zip(names, speakers, strict=True) if speaker is None]
        if not missing:
            return [speaker for speaker in speakers if speaker is not None]
        if pattern is not None:
            raise ValueError(f"--speaker-pattern {pattern!r} finds no speaker (its first group) in {missing[0]}")
        return None


def has_words(lines: Sequence[str], labels: str, tokens: Tokens) -> bool:
    """Whether label lines are words, though the dictionary has letters or pieces of words: nothing marks where a word
    ends or begins.

    Args:
        labels: the file's extension; `wrd` says it where all words have one letter.
    """
    marks = {"letter": DELIMITER, "sentencepiece": WORD_START}
    if tokens.kind not in marks or any(marks[tokens.kind] in line for line in lines):
        return False
    known = set(tokens.symbols)
    return labels == "wrd" or any(len(unit) > 1 and unit not in known for line in lines for unit in line.split())


def visible(lines: list[str], path: str, tokens: Tokens) -> list[str]:
    """Label lines without characters that nobody sees and that the dictionary does not have: each would be an error
    of the model's.
    """
    known = set("".join(tokens.symbols))
    found: dict[str, int] = {}  # character -> its first line
    cleaned = []
    for number, line in enumerate(lines, start=1):
        removed: Counter[str] = Counter()
        cleaned.append(without_invisible(line, known, removed).strip())
        for character in removed:
            found.setdefault(character, number)
    if found:
        shown = "; ".join(
            f"line {number}: U+{ord(character):04X} {unicodedata.name(character, '')}"
            for character, number in found.items()
        )
        logger.warning(
            "%s has invisible characters that the dictionary does not have, and they do not count: %s", path, shown
        )
    return cleaned


def lines_of_utterances(path: str, count: int, manifest: str) -> list[str]:
    """Lines of a file that has one for each utterance.

    Raises:
        MissingFileError: it does not exist.
        ValueError: it cannot be read, or has another count of lines.
    """
    lines = text_files.read_lines(path, "the file")
    if len(lines) != count:
        raise ValueError(
            f"{path} has {len(lines)} lines, but {manifest} has {count} utterances: line n belongs to line n + 1 there"
        )
    return [line.strip() for line in lines]
