"""Decode log-probabilities that arrive window by window, in bounded memory."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.hypothesis import Hypothesis, Word, from_path
from fairseq.decoding.tokens import Tokens

# one minute at 50 frames per second: a beam search keeps every frame of every hypothesis until it ends
SEGMENT_FRAMES = 3000


class Decoder(Protocol):
    """Decodes log-probabilities T x V into hypotheses, best first."""

    tokens: Tokens

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]: ...


class GreedyStream:
    """Greedy decoding of a stream, at 8 bytes per frame; the result equals decoding everything at once."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self._path: list[np.ndarray] = []
        self._best: list[np.ndarray] = []

    def feed(self, log_probs: np.ndarray) -> None:
        path = log_probs.argmax(axis=1)
        self._best.append(np.take_along_axis(log_probs, path[:, None], axis=1)[:, 0])
        self._path.append(path.astype(np.int32))

    def finish(self) -> list[Hypothesis]:
        path = np.concatenate(self._path) if self._path else np.zeros(0, dtype=np.int32)
        best = np.concatenate(self._best) if self._best else np.zeros(0, dtype=np.float32)
        return [from_path(path, best, self.tokens, float(best.sum(dtype=np.float64)))]


class SegmentStream:
    """Decoding of a stream in segments that end in pauses.

    A single segment (up to `segment_frames`) returns the decoder's n-best list. With several segments, their best
    hypotheses are joined, and the language model restarts at each.
    """

    def __init__(self, decoder: Decoder, segment_frames: int = SEGMENT_FRAMES) -> None:
        self.decoder, self.segment_frames = decoder, segment_frames
        self._waiting = np.zeros((0, len(decoder.tokens.symbols)), dtype=np.float32)
        self._done: list[Hypothesis] = []
        self._frames_done = 0

    def feed(self, log_probs: np.ndarray) -> None:
        self._waiting = np.concatenate([self._waiting, log_probs])
        while len(self._waiting) > self.segment_frames:
            end = pause(self._waiting[: self.segment_frames], self.decoder.tokens)
            self._take(self._waiting[:end])
            self._waiting = self._waiting[end:]

    def finish(self) -> list[Hypothesis]:
        if not self._done:
            return self.decoder.decode(self._waiting)
        self._take(self._waiting)
        units = [unit for part in self._done for unit in part.units]
        words = [word for part in self._done for word in part.words]
        return [Hypothesis(units, words, sum(part.score for part in self._done))]

    def _take(self, log_probs: np.ndarray) -> None:
        best = self.decoder.decode(log_probs)[0]
        later = self._frames_done
        self._done.append(Hypothesis(_shifted(best.units, later), _shifted(best.words, later), best.score))
        self._frames_done += len(log_probs)


def stream(decoder: Decoder) -> GreedyStream | SegmentStream:
    """Return the streaming form of a decoder."""
    return GreedyStream(decoder.tokens) if isinstance(decoder, GreedyDecoder) else SegmentStream(decoder)


def pause(log_probs: np.ndarray, tokens: Tokens) -> int:
    """Return the frame at which to cut a segment.

    It is the middle of the longest run of blanks and delimiters in the second half; runs with a delimiter come first.
    """
    half = len(log_probs) // 2
    path = log_probs[half:].argmax(axis=1)
    quiet = np.isin(path, list(tokens.silent | ({tokens.delimiter} if tokens.delimiter is not None else set())))
    edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False))
    best, where = (False, 0), len(log_probs)
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        between_words = tokens.delimiter is None or bool((path[begin:end] == tokens.delimiter).any())
        if (between_words, end - begin) > best:
            best, where = (between_words, end - begin), half + (begin + end + 1) // 2
    return where


def _shifted(words: list[Word], frames: int) -> list[Word]:
    return [word._replace(first=word.first + frames, last=word.last + frames) for word in words]
