"""A manifest as the report reads it: places, line numbers, labels beside it, speakers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairseq import text_files
from fairseq.corpora.report.records import Line
from fairseq.data.audio.manifest import Manifest, printable
from fairseq.data.audio.places import Place, parse
from fairseq.stores import is_url

_NUMBER = re.compile(r"line (\d+): ")
# LibriSpeech's names: SPEAKER-CHAPTER-UTTERANCE
SPEAKER = r"(?:^|/)(\d+)-\d+-\d+[^/]*$"


class Corpus:
    """A manifest and what lies beside it.

    Args:
        path: the manifest.
        training: False for a validation set (--valid).
        speaker_pattern: regular expression whose first group is the speaker in a name.
    Raises:
        ValueError: the manifest cannot be read or is malformed; names file and line.
    """

    def __init__(self, path: str, training: bool = True, speaker_pattern: str = SPEAKER) -> None:
        self.path, self.training = path, training
        self.manifest = Manifest(path)
        self.title = Path(path).name.removesuffix(".gz").removesuffix(".tsv")
        self.sizes: np.ndarray = np.asarray(self.manifest.sizes)
        self._starts: np.ndarray | None = self.manifest.starts  # None: a file of two columns
        self._speaker = re.compile(speaker_pattern)
        self._stem = str(Path(path).with_name(self.title))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def has_starts(self) -> bool:
        return self._starts is not None

    def starts(self) -> np.ndarray:
        """Return the first sample of every utterance in its file, int64."""
        return np.zeros(len(self), dtype=np.int64) if self._starts is None else np.asarray(self._starts)

    def start(self, index: int) -> int:
        return 0 if self._starts is None else int(self._starts[index])

    def place(self, index: int) -> str:
        return self.manifest.file(index)

    def line(self, index: int, evidence: str = "") -> Line:
        """Return an utterance's line for a finding."""
        text = self.manifest.places([index], 1)
        match = _NUMBER.match(text)
        assert match is not None, text
        return Line(self.path, int(match[1]), legible(text[match.end() :]), legible(evidence))

    def beside(self, ending: str) -> str | None:
        """Return the path of the labels with this ending, such as .ltr, if there is such a file."""
        path = f"{self._stem}{ending}"
        return path if os.path.isfile(path) else None

    @property
    def dictionary(self) -> str | None:
        path = os.path.join(os.path.dirname(self.path), "dict.ltr.txt")
        return path if os.path.isfile(path) else None

    def speakers(self) -> dict[str, int]:
        """Return each speaker's first utterance.

        The sidecar NAME.jsonl of fairseq-pack says who speaks, or the name in the source; otherwise the names do.
        """
        found: dict[str, int] = {}
        for index, speaker in enumerate(self._speakers()):
            if speaker is not None:
                found.setdefault(speaker, index)
        return found

    def _speakers(self) -> Iterator[str | None]:
        sidecar = self.beside(".jsonl")
        if sidecar is None:
            yield from (self._speaker_in_name(printable(self.manifest.name(index))) for index in range(len(self)))
            return
        for index, text in enumerate(text_files.iterate_lines(sidecar, "the sidecar")):
            try:
                entry = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{sidecar}, line {index + 1}: not JSON ({error}). Pack the corpus again.") from error
            known = entry if isinstance(entry, dict) else {}
            speaker = known.get("speaker")
            yield self._speaker_in_name(str(known.get("origin", ""))) if speaker is None else str(speaker)

    def _speaker_in_name(self, name: str) -> str | None:
        match = self._speaker.search(name)
        return match[1] if match else None

    def local(self, index: int) -> Place | None:
        """Return where the bytes of an utterance's place are; None if that is not a local file."""
        place = parse(self.place(index))
        return None if is_url(place.file) else place


def legible(text: str) -> str:
    """Return text that a terminal prints as one line: control characters are written as \\uNNNN."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in printable(text))
