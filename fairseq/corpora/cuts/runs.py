"""From probabilities of frames to stretches of speech, window by window.

A stretch begins at a frame that reaches the threshold, and ends where the probability falls below the threshold by
`RELEASE`; then loudness moves its edges (`edges.py`). Pauses under 0.1 s do not end it: many are within a word. A
stretch that is too long for a segment is handed on in pieces, with the quietest place of every half second between
them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.corpora.cuts.detector import RATE, STEP
from fairseq.corpora.cuts.edges import AROUND, BLOCK, PER_STEP, loudness, outwards, smoothed
from fairseq.corpora.cuts.settings import RELEASE, CutSettings, samples

_BUCKET = 16  # frames with one candidate for a cut within speech: 0.5 s
_DEEP = 20.0  # dB below the half second around it: certainly not within a sound
_DIP = 3  # frames: a shorter pause does not end a stretch
_SPECK = 2  # frames: a shorter stretch is a click


class Piece(NamedTuple):
    """Speech without a pause."""

    start: int  # samples at 16 kHz
    end: int
    # cost of a cut after this piece if the next one follows at once, from 1 (a clear gap) to 2; None: a pause follows
    strain: float | None = None


class SpeechRuns:
    """Collects the speech of one recording; `feed` takes its windows in order.

    It decides about a frame one second later, when the loudness on both sides is known.
    """

    def __init__(self, settings: CutSettings) -> None:
        self._on, self._off = settings.threshold, settings.threshold - RELEASE
        self._longest = samples(settings.longest - 2 * settings.pad)
        self._steps = 0  # frames so far
        self._speaking = False  # whether the last frame was speech
        self._changes: list[int] = []  # frames at which speech begins or ends, not yet decided
        self._begin: int | None = None  # first frame of the open stretch
        self._first = 0  # its first sample
        self._end: int | None = None  # end of its speech so far, if that is in a pause
        self._power = np.zeros(0)  # of blocks from frame `_power_from`
        self._power_from = 0
        self._latest = 0  # end of the speech that was handed on, in samples
        self._places = np.zeros(0, np.int64)  # candidates for cuts within speech, and their strain
        self._strains = np.zeros(0)

    def feed(self, probabilities: np.ndarray, window: np.ndarray) -> list[Piece]:
        """Return the pieces that are finished with this window.

        Args:
            probabilities: of its frames, T.
            window: its samples, T * 512.
        """
        power = loudness(window)
        places, strains = _valleys(probabilities, power)
        self._places = np.concatenate([self._places, places + self._steps * STEP])
        self._strains = np.concatenate([self._strains, strains])
        self._power = np.concatenate([self._power, power])
        speaks = self._hysteresis(probabilities)
        self._changes += (np.flatnonzero(np.diff(speaks, prepend=self._speaking)) + self._steps).tolist()
        self._steps += len(probabilities)
        self._speaking = bool(speaks[-1])
        return self._decide(self._steps - AROUND)

    def finish(self) -> list[Piece]:
        """Return the last pieces, at the end of the recording."""
        if self._speaking:
            self._changes.append(self._steps)
        return self._decide(self._steps + _DIP)

    def _decide(self, until: int) -> list[Piece]:
        """Return the pieces that end before frame `until` less a dip, and forget what is not needed for later ones."""
        pieces: list[Piece] = []
        while self._changes and self._changes[0] <= until:
            step = self._changes.pop(0)
            if self._begin is None:
                self._open(step)
            elif self._end is None:
                self._end = step
            elif step - self._end < _DIP:
                self._end = None
            else:
                pieces += self._close(self._end, step)
                self._open(step)
        if self._end is not None and until - self._end >= _DIP:
            pieces += self._close(self._end, self._changes[0] if self._changes else self._steps)
        if self._begin is None:
            self._drop_places((until - AROUND) * STEP)
        elif (until - self._begin) * STEP > 4 * self._longest:
            pieces += self._part(until)
        kept = max(self._power_from, until - 2 * AROUND)
        self._power = self._power[(kept - self._power_from) * PER_STEP :]
        self._power_from = kept
        return pieces

    def _open(self, step: int) -> None:
        self._begin = step
        pause = self._sides(step, self._latest, -1)
        shift = outwards(self._sides(step, self._steps * STEP, 1), pause, late=False)
        self._first = max(self._latest, step * STEP - shift * BLOCK)

    def _sides(self, step: int, limit: int, direction: int) -> np.ndarray:
        """Return the power of up to a second on one side of a frame's beginning, in order from there away."""
        edge = (step - self._power_from) * PER_STEP
        if direction > 0:
            limit = min(limit // BLOCK - self._power_from * PER_STEP, edge + AROUND * PER_STEP)
            return self._power[edge : max(edge, limit)]
        limit = max(-(-limit // BLOCK) - self._power_from * PER_STEP, edge - AROUND * PER_STEP, 0)
        return self._power[min(edge, limit) : edge][::-1]

    def _hysteresis(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which frames are speech: those between the two thresholds are what the frame before is."""
        known = (probabilities >= self._on) | (probabilities < self._off)
        latest = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
        return np.where(latest >= 0, probabilities[latest] >= self._on, self._speaking)

    def _close(self, end: int, following: int) -> list[Piece]:
        """End the open stretch before frame `end`; the next one begins at `following` or later."""
        assert self._begin is not None
        begin, self._begin, self._end = self._begin, None, None
        if end - begin < _SPECK:
            return []
        pause = self._sides(end, following * STEP, 1)
        shift = outwards(self._sides(end, self._first, -1), pause, late=True)
        last = end * STEP + shift * BLOCK
        pieces = self._split(self._first, last) if last - self._first > self._longest else []
        self._latest = last
        return [*pieces, Piece(pieces[-1].end if pieces else self._first, last)]

    def _part(self, until: int) -> list[Piece]:
        """Hand on all of the open stretch but its last second, so that music or a crowd needs no memory."""
        pieces = self._split(self._first, (until - 2 * _BUCKET) * STEP)
        self._first = self._latest = pieces[-1].end
        self._begin = self._first // STEP
        self._drop_places(self._first)
        return pieces

    def _split(self, first: int, last: int) -> list[Piece]:
        """Return pieces from `first` to the last candidate before `last`."""
        inside = (self._places > first + RATE // 4) & (self._places < last - RATE // 4)
        pieces: list[Piece] = []
        for place, strain in zip(self._places[inside].tolist(), self._strains[inside].tolist(), strict=True):
            pieces.append(Piece(pieces[-1].end if pieces else first, place, strain))
        return pieces

    def _drop_places(self, before: int) -> None:
        keep = self._places > before
        self._places, self._strains = self._places[keep], self._strains[keep]


def _valleys(probabilities: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the best place for a cut in each half second of a window, by loudness and by probability.

    Returns:
        Places, in samples from the window's first; and the strain of a cut there, from 1 to 2.
    """
    count, per_bucket = len(probabilities) // _BUCKET, _BUCKET * PER_STEP
    if count == 0:
        return np.zeros(0, np.int64), np.zeros(0)
    buckets = power[: count * per_bucket].reshape(count, per_bucket)
    smooth = smoothed(buckets)
    margin = (per_bucket - smooth.shape[1]) // 2
    quiet = 10 * (np.log10(buckets.mean(axis=1, keepdims=True)) - np.log10(smooth)) / _DEEP
    frames = np.repeat(probabilities[: count * _BUCKET].reshape(count, _BUCKET), PER_STEP, axis=1)
    dip = quiet + 1 - frames[:, margin : per_bucket - margin]
    best = dip.argmax(axis=1)
    rows = np.arange(count)
    places = (rows * per_bucket + best + margin) * BLOCK + BLOCK // 2
    return places, 2 - np.clip(dip[rows, best], 0, 1)
