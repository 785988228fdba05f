"""Find recordings that share audio, such as the same recording cut twice, by checksums of a few places in each.

A place is chosen by the audio itself: a sample larger than all others within 60 ms of it. So the same places
are found wherever a recording is cut, and a cut, gaps in it and another container do not matter. Another level, rate
or lossy compression changes the checksums: such copies are not found.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

_REACH = 0.06  # seconds on both sides
_AROUND = 128  # samples on both sides that the checksum covers
_LOUD = 0.003  # smaller samples are noise of a few steps, which repeats by chance
MOST = 1 << 22  # checksums kept, 16 bytes each
_SHARED = 2  # places at one distance that two recordings must share


class Anchors:
    """The places of one utterance.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._reach = max(_AROUND, round(_REACH * sample_rate))
        self._tail = np.zeros(0, dtype=np.float32)
        self._before = 0  # samples before the tail
        self._next = 0  # the first place that is not judged yet
        self.hashes: list[int] = []
        self.places: list[int] = []

    def feed(self, wave: np.ndarray) -> None:
        """Add the next samples."""
        wave = np.concatenate([self._tail, wave]) if len(self._tail) else wave
        size, reach = np.abs(wave), self._reach
        last = len(wave) - reach  # places up to here have all their neighbours
        stretches = size[: len(wave) - len(wave) % reach].reshape(-1, reach)
        if len(stretches) == 0:
            self._tail = wave.copy()
            return
        places = stretches.argmax(axis=1) + np.arange(len(stretches)) * reach  # a place is the largest of its stretch
        judged = (places >= max(reach, self._next - self._before)) & (places < last) & (size[places] >= _LOUD)
        for place in places[judged].tolist():
            if size[place] > max(size[place - reach : place].max(), size[place + 1 : place + reach + 1].max()):
                self.hashes.append(_checksum(wave[place - _AROUND : place + _AROUND]))
                self.places.append(self._before + place)
        kept = max(0, last - reach)
        self._next = max(self._next, self._before + max(0, last))
        self._before += kept
        self._tail = wave[kept:].copy()


def _checksum(wave: np.ndarray) -> int:
    samples = np.round(wave * 32768).astype(np.int32)
    return int.from_bytes(hashlib.blake2b(samples.data, digest_size=8).digest(), "little")


class Shared(NamedTuple):
    """Two utterances that contain the same audio."""

    first: int  # the utterance with the lower number
    second: int
    distance: int  # samples from the begin of the first to that of the second, in the recording
    places: int  # that both have


class AnchorTable:
    """The places of all utterances, of bounded size: when it is full, only every second checksum is kept, and so on.

    Args:
        most: checksums to keep.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most, self._mask = most, np.uint64(0)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._held = 0

    @property
    def share(self) -> float:
        """The share of places that are kept."""
        return 1 / (int(self._mask) + 1)

    def add(self, hashes: np.ndarray, utterances: np.ndarray, places: np.ndarray) -> None:
        """Add places: their checksums (uint64), utterances (int64) and first samples (int64)."""
        self._keep(hashes, utterances.astype(np.uint32), places.astype(np.uint32))
        while self._held > self._most:
            self._mask = self._mask << np.uint64(1) | np.uint64(1)
            parts, self._parts, self._held = self._parts, [], 0
            for part in parts:
                self._keep(*part)

    def _keep(self, hashes: np.ndarray, utterances: np.ndarray, places: np.ndarray) -> None:
        kept = (hashes & self._mask) == 0
        self._parts.append((hashes[kept], utterances[kept], places[kept]))
        self._held += int(kept.sum())

    def shared(self) -> list[Shared]:
        """Return pairs of utterances with at least two places in common at one distance.

        If more than two utterances share a place, each is paired with the first of them only.
        """
        if not self._parts:
            return []
        hashes, utterances, places = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.lexsort((places, utterances, hashes))
        hashes, utterances, places = hashes[order], utterances[order].astype(np.int64), places[order].astype(np.int64)
        starts = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
        first = np.repeat(starts, np.diff(starts, append=len(hashes)))
        pairs = np.flatnonzero(utterances != utterances[first])
        if len(pairs) == 0:
            return []
        keys = np.stack([utterances[first[pairs]], utterances[pairs], places[first[pairs]] - places[pairs]])
        found, counts = np.unique(keys, axis=1, return_counts=True)
        return [
            Shared(*column, places=count)
            for column, count in zip(found.T.tolist(), counts.tolist(), strict=True)
            if count >= _SHARED
        ]
