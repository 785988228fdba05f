"""Test sets: a manifest, and references if it has a label file."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq import text_files
from fairseq.data.audio.manifest import Manifest, Segment
from fairseq.data.data_utils import post_process
from fairseq.data.transcripts import without_invisible
from fairseq.decoding.tokens import DELIMITER, WORD_START, Tokens

logger = logging.getLogger(__name__)

LIBRISPEECH_SPEAKER = r"(?:^|/)(\d+)-\d+-\d+\.\w+$"  # speaker-chapter-utterance


@dataclass
class TestSet:
    """A manifest's utterances.

    `references` is empty if there are no labels; `unit_references` is also empty if the labels are words and the
    model's units are not.
    """

    name: str
    manifest: Manifest
    label_path: str | None
    unit_references: list[str]  # lines of the label file
    references: list[str]  # words

    __test__ = False  # pytest: this is not a test class

    @classmethod
    def read(cls, data: str, subset: str, labels: str | None, tokens: Tokens) -> TestSet:
        """Read <data>/<subset>.tsv and <data>/<subset>.<labels>, a file of dictionary units or of words.

        Args:
            labels: extension of the label file; None: no labels.
        Raises:
            ValueError: a file or the manifest's root is missing, or the line counts differ.
        """
        manifest = Manifest(os.path.join(data, f"{subset}.tsv"))
        manifest.check_root()
        if labels is None:
            return cls(subset, manifest, None, [], [])
        path = os.path.join(data, f"{subset}.{labels}")
        lines = visible(lines_of_utterances(path, len(manifest), manifest.path), path, tokens)
        if has_words(lines, labels, tokens):
            logger.info("%s has words, which are not the model's units: the unit error rate is not computed", path)
            return cls(subset, manifest, path, [], [" ".join(text_files.split(line)) for line in lines])
        return cls(subset, manifest, path, lines, [post_process(line, tokens.kind) for line in lines])

    def __len__(self) -> int:
        return len(self.manifest)

    def files(self) -> list[str | Segment]:
        """Return the audio of each utterance: a file, or a segment of one."""
        return [self.manifest.audio(index) for index in range(len(self))]

    def speakers(self, file: str | None = None, pattern: str | None = None) -> list[str] | None:
        """Return the speaker of each utterance, or None if they are not known.

        Args:
            file: file with one speaker per line and utterance.
            pattern: regular expression whose first group is the speaker in the manifest's path; None: the pattern of
                LibriSpeech's file names.
        Raises:
            ValueError: the file has a different number of lines, or `pattern` does not match every path.
        """
        return speakers_of(self.manifest, file, pattern)


def speakers_of(manifest: Manifest, file: str | None = None, pattern: str | None = None) -> list[str] | None:
    """Return the speaker of each of a manifest's utterances; see `TestSet.speakers`."""
    if file is not None:
        return lines_of_utterances(file, len(manifest), manifest.path)
    names = [manifest.name(index) for index in range(len(manifest))]
    try:
        found = [re.search(pattern or LIBRISPEECH_SPEAKER, name) for name in names]
    except re.error as error:
        raise ValueError(f"--speaker-pattern {pattern!r} is not a valid regular expression: {error}") from error
    speakers = [match.group(1) if match is not None and match.groups() else None for match in found]
    missing = [name for name, speaker in zip(names, speakers, strict=True) if speaker is None]
    if not missing:
        return [speaker for speaker in speakers if speaker is not None]
    if pattern is not None:
        raise ValueError(f"--speaker-pattern {pattern!r} finds no speaker (its first group) in {missing[0]}")
    return None


def has_words(lines: Sequence[str], labels: str, tokens: Tokens) -> bool:
    """Return whether label lines are words although the dictionary has letters or sentencepieces.

    Such lines have no mark where a word ends or begins.

    Args:
        labels: the file's extension; `wrd` decides if all words have one letter.
    """
    marks = {"letter": DELIMITER, "sentencepiece": WORD_START}
    if tokens.kind not in marks or any(marks[tokens.kind] in line for line in lines):
        return False
    known = set(tokens.symbols)
    return labels == "wrd" or any(len(unit) > 1 and unit not in known for line in lines for unit in line.split())


def visible(lines: list[str], path: str, tokens: Tokens) -> list[str]:
    """Remove invisible characters that the dictionary does not have: each would count as an error of the model."""
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
        logger.warning("%s has invisible characters that are not in the dictionary; they are ignored: %s", path, shown)
    return cleaned


def lines_of_utterances(path: str, count: int, manifest: str) -> list[str]:
    """Read a file with one line per utterance.

    Raises:
        MissingFileError: the file does not exist.
        ValueError: the file cannot be read, or has a different number of lines.
    """
    lines = text_files.read_lines(path, "the file")
    if len(lines) != count:
        raise ValueError(
            f"{path} has {len(lines)} lines, but {manifest} has {count} utterances. Line n must belong to "
            "line n + 1 of the manifest"
        )
    return [line.strip() for line in lines]
