"""The first pass: every file's header, and a checksum of a few of its bytes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import NamedTuple

import numpy as np

from fairseq.corpora.report.corpus import Corpus
from fairseq.corpora.report.file_rules import HEADER_RULES
from fairseq.corpora.report.records import Header, Hits, seconds_histogram
from fairseq.data.audio.audio_utils import UnreadableAudio, open_audio
from fairseq.data.audio.places import Place

PART = 256  # utterances per task
_SAMPLED = 4096  # bytes at the begin, in the middle and at the end of a file
_BLOCK = 1 << 20


class Span(NamedTuple):
    """Consecutive utterances of one corpus: a task of a pass."""

    corpus: int
    begin: int
    end: int


class Form(NamedTuple):
    """What files of a corpus can differ in."""

    sample_rate: int
    channels: int
    codec: str


class Headers:
    """What the headers of a corpus say; parts of it add up."""

    def __init__(self) -> None:
        self.forms: Counter[Form] = Counter()
        self.examples: dict[Form, Hits] = {}
        self.seconds = seconds_histogram()
        self.total_seconds = 0.0
        self.bytes = 0
        self.hits = HEADER_RULES.no_hits()

    def merge(self, other: Headers) -> None:
        self.forms.update(other.forms)
        for form, hits in other.examples.items():
            self.examples.setdefault(form, Hits()).merge(hits)
        self.seconds.merge(other.seconds)
        self.total_seconds += other.total_seconds
        self.bytes += other.bytes
        for name, hits in other.hits.items():
            self.hits[name].merge(hits)

    def usual_rate(self) -> int:
        """Return the sample rate of most files; 0 if none can be read."""
        rates: Counter[int] = Counter()
        for form, count in self.forms.items():
            rates[form.sample_rate] += count
        return rates.most_common(1)[0][0] if rates else 0


class Part(NamedTuple):
    """The result of a task."""

    span: Span
    headers: Headers
    rates: np.ndarray  # int32, Hz, one per utterance; 0: the file has not what the line says
    keys: np.ndarray  # uint64: of the bytes; 0: unknown
    places: np.ndarray | None  # uint64: of the file's name; None: each line is a file


def read_part(state: object, span: Span) -> Part:
    """Read the headers of a span; `state` is the list of corpora."""
    assert isinstance(state, list)
    corpus: Corpus = state[span.corpus]
    headers, count = Headers(), span.end - span.begin
    rates, keys = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.uint64)
    places = np.zeros(count, dtype=np.uint64) if corpus.has_starts else None
    seconds = []
    for row, index in enumerate(range(span.begin, span.end)):
        header, key = _look(corpus, index, headers)
        HEADER_RULES.apply(index, header, headers.hits)
        if places is not None:
            places[row] = _hash(corpus.place(index).encode("utf-8", "surrogateescape"))
        if header.problem is not None:
            continue
        form = Form(header.sample_rate, header.channels, header.codec)
        headers.forms[form] += 1
        headers.examples.setdefault(form, Hits()).add(index, "")
        if header.frames >= header.start + header.size > header.start:
            rates[row], keys[row] = header.sample_rate, key
        seconds.append(header.size / header.sample_rate)
    headers.seconds.add(np.asarray(seconds))
    headers.total_seconds = float(np.sum(seconds))
    return Part(span, headers, rates, keys, places)


def _look(corpus: Corpus, index: int, headers: Headers) -> tuple[Header, int]:
    """Return the header of an utterance's file and the key of its bytes, which is 0 if it is unknown."""
    size, start, place = int(corpus.sizes[index]), corpus.start(index), corpus.place(index)
    try:
        with open_audio(place) as file:
            codec = f"{file.format} {file.subtype}"
            header = Header(
                size, start, corpus.has_starts, False, None, file.samplerate, file.frames, file.channels, codec
            )
        where = corpus.local(index)
        if where is None:
            return header, 0
        key, length = quick_key(where, f"{start} {size}" if corpus.has_starts else "")
        headers.bytes += 0 if corpus.has_starts else length  # many segments share a file
        return header, key
    except UnreadableAudio as error:
        return Header(size, start, corpus.has_starts, _is_missing(corpus, index), str(error)), 0
    except (OSError, ValueError, EOFError, RuntimeError) as error:  # RuntimeError: soundfile's own
        return Header(size, start, corpus.has_starts, False, str(error)), 0


def _is_missing(corpus: Corpus, index: int) -> bool:
    """Whether an unreadable place is a local file that does not exist."""
    where = corpus.local(index)
    if where is None:
        return False
    try:
        os.stat(where.file)
        return False
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # no right to look, or a name that no file can have
        return False


def quick_key(where: Place, also: str) -> tuple[int, int]:
    """Return (64 bits of a checksum of a file's length and a few of its bytes, its length).

    Equal files have equal keys. Different ones nearly never do; `full_key` decides.

    Args:
        where: the bytes.
        also: what else must be equal, such as the range of a segment.
    """
    with open(where.file, "rb", buffering=0) as file:
        first, length = where.offset or 0, where.length if where.length is not None else file.seek(0, 2)
        parts = [str(length).encode(), also.encode()]
        for offset in sorted({0, max(0, length // 2), max(0, length - _SAMPLED)}):
            file.seek(first + offset)
            parts.append(file.read(min(_SAMPLED, length - offset)))
    return _hash(b"\0".join(parts)) | 1, length


def full_key(where: Place, also: str) -> int:
    """Return 64 bits of a checksum of all bytes."""
    digest = hashlib.sha256(also.encode())
    with open(where.file, "rb", buffering=0) as file:
        file.seek(where.offset or 0)
        left = where.length if where.length is not None else 1 << 62
        while left > 0 and (data := file.read(min(left, _BLOCK))):
            digest.update(data)
            left -= len(data)
    return int.from_bytes(digest.digest()[:8], "little") | 1


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def spans(corpora: list[Corpus], part: int = PART) -> list[Span]:
    """Cut all corpora into tasks."""
    return [
        Span(number, begin, min(begin + part, len(corpus)))
        for number, corpus in enumerate(corpora)
        for begin in range(0, len(corpus), part)
    ]
