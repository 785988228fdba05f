"""What a source of utterances is, and the list of the known ones.

A new kind of source is one file in `fairseq/corpora/pack/sources`: a class with the methods of `Source`, registered by
`register_source` and imported in that folder's `__init__.py`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Wave(NamedTuple):
    """Audio that a source has decoded itself."""

    samples: np.ndarray  # float32, S, in [-1, 1]
    sample_rate: int  # Hz


class Seconds(NamedTuple):
    """A part of a file, in seconds; None: to the end of the file."""

    start: float = 0.0
    duration: float | None = None


@dataclass(frozen=True)
class Item:
    """An utterance of a source: where its audio is, and what the source knows about it.

    Exactly one of `place`, `data`, `load` and `problem` is set, except when items are listed without audio.

    Args:
        origin: its name in the source, for reports and messages.
        key: the name that it should have in the shards; it is made unique, and other characters are replaced.
        place: where the audio lies, as in a manifest.
        data: the bytes of an audio file.
        load: decodes the audio; for forms that only another package reads. It must be picklable.
        start, frames: the part to use, in samples at the file's own rate; -1: to the end.
        seconds: the part in seconds, instead of `start` and `frames`.
        text: the transcript.
        speaker: the speaker's name.
        rest: everything else that the source knows.
        size: about this many bytes in the shards; 0 if unknown.
        stamp: what changes when the audio changes, such as size and time of the file; only for comparison.
        problem: why it cannot be packed, if the source already knows.
    """

    origin: str
    key: str
    place: str | None = None
    data: bytes | None = None
    load: Callable[[], Wave] | None = None
    start: int = 0
    frames: int = -1
    seconds: Seconds | None = None
    text: str | None = None
    speaker: str | None = None
    rest: Mapping[str, Json] = field(default_factory=dict)
    size: int = 0
    stamp: str = ""
    problem: str | None = None


class Options(NamedTuple):
    """What a user may say about a source; a source uses what concerns it."""

    extensions: tuple[str, ...] = ()  # of audio files in a folder; (): all that libsndfile reads
    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    key_column: str | None = None


class Source(Protocol):
    """A corpus in one of its forms."""

    kind: str  # its name for --from
    prepared: bool  # whether texts are labels already, which are used as they are

    def __init__(self, path: Path, options: Options) -> None: ...

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Return whether this file or folder looks like this kind of source; cheap."""
        ...

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        """Yield the utterances, in the same order each time.

        Args:
            first: number of utterances to skip.
            audio: whether `data` is needed; without it, no audio is read.
        Raises:
            ValueError: a file of the source is damaged or not of this form; names it, and the line.
        """
        ...


_sources: dict[str, type[Source]] = {}
_S = TypeVar("_S", bound=type[Source])
_ANY_FOLDER = "folder"  # tried last: every other form may be a folder, too


def register_source(source: _S) -> _S:
    """Add a kind of source."""
    _sources[source.kind] = source
    return source


def kinds() -> list[str]:
    return sorted(_sources)


def open_source(path: str | os.PathLike[str], kind: str | None = None, options: Options | None = None) -> Source:
    """Open a corpus.

    Args:
        path: a file or a folder; for tables also a pattern of files, such as data/train-*.parquet.
        kind: one of `kinds()`; None: recognise it.
        options: what the user said about it.
    Raises:
        ValueError: it does not exist, or it is not of a known kind.
    """
    if "://" in os.fspath(path):
        raise ValueError(
            f"the source {path} is a URL; it must be a local file or folder. A local manifest may list audio at URLs."
        )
    place = Path(os.path.abspath(path))
    if not place.exists() and not glob.glob(str(place)):
        raise ValueError(f"the source {path} does not exist.")
    if kind is None:
        tried = sorted(_sources, key=lambda name: name == _ANY_FOLDER)
        kind = next((name for name in tried if _sources[name].recognises(place)), None)
    if kind is None:
        raise ValueError(
            f"the source {path} is not recognised. Say what it is with --from, one of: {', '.join(kinds())}."
        )
    return _sources[kind](place, options or Options())
