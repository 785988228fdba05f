"""Manifests: fairseq's tsv of audio files, kept as one block of bytes and a few arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairseq.data.audio import manifest_index
from fairseq.data.audio.manifest_lines import printable
from fairseq.data.mapped import bytes_of, region_of, shared
from fairseq.stores import is_url, joined

__all__ = ["JoinedManifest", "Manifest", "Segment", "printable"]

_LOOKED_AT = 1000  # lines that decide whether the root is used
_PIECE = 1 << 22  # bytes


@dataclass(frozen=True)
class Segment:
    """A part of an audio file: an utterance of a manifest with a third column."""

    place: str
    start: int  # first frame, at the file's own rate
    frames: int


class Manifest:
    """Utterances and their lengths: line 1 is the root, every other line `path<TAB>frames`, as in fairseq.

    A third column is the first frame of the utterance, `path<TAB>frames<TAB>start`, so that a long recording can have
    many utterances. All lines of a file have the same columns. fairseq does not open files with a third column.

    Names are kept as bytes and decoded on use. 250,000 lines load in a fraction of a second; a larger file gets an
    index beside it, which later starts and worker processes map: see `manifest_index`. If `path` does not exist,
    `path`.gz is read.

    Attributes:
        root: the folder or URL that relative paths belong to.
        sizes: frames of each utterance at its file's own rate, int64.
        starts: first frame of each utterance, int64; None without a third column.
    Raises:
        ValueError: the file does not exist, or a line is malformed; names file and line. The root folder itself is not
            checked: see `root_problem`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = manifest_index.find(str(path))
        try:
            lines = manifest_index.load(self.path)
        except OSError as error:
            raise ValueError(
                f"cannot read the manifest {path}: {error.strerror}. A run looks for it in task.data, by the name of "
                "its split. Create manifests with fairseq-manifest."
            ) from error
        self.root, self._first_line, self._text, self._begins, self.sizes, self.starts, self._digest = lines

    def root_problem(self) -> str | None:
        """Return an error message if the root is not a folder; None if it is, or if no path is relative to it."""
        if is_url(self.root) or os.path.isdir(self.root or os.curdir):
            return None
        looked_at = min(len(self), _LOOKED_AT)
        if looked_at and not any(map(self.is_relative, range(looked_at))):
            return None
        where = "" if os.path.isabs(self.root) else f", relative to {os.getcwd()}"
        found = "is a file, not a folder" if os.path.isfile(self.root) else "is not a folder on this machine"
        problem = f"{self.path}, line 1: the root {printable(self.root)!r} {found}{where}."
        if not os.path.isabs(self.root):
            problem += " Absolute paths begin with a slash."
        return f"{problem} Correct the line, or mount the folder."

    def check_root(self) -> None:
        """Raise ValueError with the message of `root_problem`, if there is one."""
        problem = self.root_problem()
        if problem is not None:
            raise ValueError(problem)

    def __len__(self) -> int:
        return len(self.sizes)

    def listing(self) -> memoryview:
        """Return the raw lines without the root's, so that the result does not depend on where the files are."""
        return self._text[self._first_line :].data

    def digest(self) -> str:
        """Return a checksum of `listing`."""
        if self._digest is None:
            self._digest = _digest([self])
        return self._digest

    def copied_bytes(self) -> int:
        """Return the memory that a copy of this process needs for the lines: 0 if they are mapped."""
        return 0 if region_of(self._text) is not None else len(self._text)

    def name(self, index: int) -> str:
        """Return the path column of an utterance."""
        begin = int(self._begins[index])
        end = int(self._begins[index + 1]) if index + 1 < len(self) else len(self._text)
        return os.fsdecode(bytes_of(self._text, begin, end).partition(b"\t")[0])

    def file(self, index: int) -> str:
        """Return the place of an utterance's file: the path column, joined with the root if it is relative."""
        return joined(self.root, self.name(index))

    def start(self, index: int) -> int:
        """Return the first frame of an utterance in its file."""
        return 0 if self.starts is None else int(self.starts[index])

    def utterance(self, index: int) -> str:
        """Return a name of an utterance for outputs and messages: `path`, or `path:start-end` for a segment."""
        return self._marked(self.name(index), index)

    def audio(self, index: int) -> str | Segment:
        """Return an utterance for inference: its file, or the segment of it."""
        file = self.file(index)
        return file if self.starts is None else Segment(file, self.start(index), int(self.sizes[index]))

    def title(self, index: int) -> str:
        """Return a name of an utterance for messages: its place, with `:start-end` if it is a segment."""
        return self._marked(self.file(index), index)

    def _marked(self, name: str, index: int) -> str:
        if self.starts is None:
            return name
        start = self.start(index)
        return f"{name}:{start}-{start + int(self.sizes[index])}"

    def row(self, index: int) -> str:
        """Return the columns of an utterance's line."""
        row = f"{self.name(index)}\t{self.sizes[index]}"
        return row if self.starts is None else f"{row}\t{self.starts[index]}"

    def is_relative(self, index: int) -> bool:
        """Return whether the path of an utterance is relative to the root."""
        name = self.name(index)
        return not (os.path.isabs(name) or is_url(name))

    def _line(self, index: int) -> int:
        """Return the number of an utterance's line, from 1."""
        begin = int(self._begins[index])
        pieces = (bytes_of(self._text, first, min(first + _PIECE, begin)) for first in range(0, begin, _PIECE))
        return 1 + sum(piece.count(b"\n") for piece in pieces)

    def places(self, indices: Sequence[int], shown: int = 5) -> str:
        """Return line and path of the first `shown` of these utterances, for a message."""
        return "; ".join(f"line {self._line(index)}: {printable(self.utterance(index))}" for index in indices[:shown])


class JoinedManifest:
    """Concatenation of several manifests, each with its own root."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = list(manifests)
        self.offsets = np.cumsum([0, *(len(m) for m in self.manifests)])
        self.sizes = _joined([m.sizes for m in self.manifests])
        self.starts: np.ndarray | None = None
        if any(m.starts is not None for m in self.manifests):
            self.starts = _joined([np.zeros_like(m.sizes) if m.starts is None else m.starts for m in self.manifests])
        self.path = ",".join(m.path for m in self.manifests)

    def __len__(self) -> int:
        return len(self.sizes)

    def _find(self, index: int) -> tuple[Manifest, int]:
        number = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return self.manifests[number], int(index - self.offsets[number])

    def name(self, index: int) -> str:
        manifest, own = self._find(index)
        return manifest.name(own)

    def file(self, index: int) -> str:
        manifest, own = self._find(index)
        return manifest.file(own)

    def start(self, index: int) -> int:
        """Return the first frame of an utterance in its file."""
        return 0 if self.starts is None else int(self.starts[index])

    def is_segment(self, index: int) -> bool:
        """Return whether the utterance's manifest has a third column; otherwise an utterance is a whole file."""
        return self._find(index)[0].starts is not None

    def title(self, index: int) -> str:
        """Return a name of an utterance for messages: its place, with `:start-end` if it is a segment."""
        manifest, own = self._find(index)
        return manifest.title(own)

    def digest(self) -> str:
        """Return a checksum of the manifests' listings."""
        return self.manifests[0].digest() if len(self.manifests) == 1 else _digest(self.manifests)

    def check_root(self, index: int) -> None:
        """Check the root of the manifest that lists this utterance, if the utterance's path is relative to it."""
        manifest, own = self._find(index)
        if manifest.is_relative(own):
            manifest.check_root()


def _joined(columns: Sequence[np.ndarray]) -> np.ndarray:
    return columns[0] if len(columns) == 1 else shared(np.concatenate(columns))


def _digest(manifests: Sequence[Manifest]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for manifest in manifests:
        digest.update(manifest.listing())
    return digest.hexdigest()
