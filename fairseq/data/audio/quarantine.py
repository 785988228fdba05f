"""Files that cannot be decoded: what stands in for them, and when there are too many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fairseq.data.audio.audio_utils import Samples, UnreadableAudio

logger = logging.getLogger(__name__)

_LISTED = 20  # names in an error
_PAUSES = (0.1, 0.5)  # seconds before a file is tried again: network file systems fail for moments
_PATIENT = 3  # files of one crop that are waited for; where more fail in a row, waiting only delays the error
_NOTED = 3  # remarks that are logged in full
_LONGER, _BLOCK = 1.01, 1152  # a file may be longer than its manifest says by so much, and a block of MP3, unnoticed
_MOST_SUBSTITUTES = 100  # so many unreadable files in a row mean that the disk is gone, not that files are broken


class Trouble(NamedTuple):
    """What a batch reports of a file."""

    utterance: int  # its index
    name: str
    reason: str
    replaced: bool = True  # it could not be decoded; else it is used, and something about it is odd


def is_longer(length: int, size: int) -> bool:
    """Whether a file of `length` samples is so much longer than the manifest's `size` that somebody should know."""
    return length > size * _LONGER + _BLOCK


class Quarantine:
    """Keeps account, in the training process, of the files that batches report.

    Args:
        total: utterances of the data set.
        max_share: the run stops when more than this share of them is bad. The key is task.max_quarantined_share.
    """

    def __init__(self, total: int, max_share: float) -> None:
        self.total = total
        self.max_share = max_share
        self.files: dict[int, tuple[str, str]] = {}  # index -> name, reason
        self.noted: set[int] = set()  # files that are used, with a remark

    def report(self, items: Iterable[Trouble]) -> None:
        """Take a batch's list; each file is logged once.

        Raises:
            ValueError: more than the allowed share is bad; lists them.
        """
        for index, name, reason, replaced in items:
            if not replaced:
                self._note(index, name, reason)
                continue
            if index in self.files:
                continue
            self.files[index] = (name, reason)
            logger.warning("%s cannot be decoded and is replaced by an utterance of similar length: %s", name, reason)
        if len(self.files) > self.max_share * self.total:
            listed = "\n".join(f"  {name}: {reason}" for name, reason in list(self.files.values())[:_LISTED])
            more = f"\n  and {len(self.files) - _LISTED} more" if len(self.files) > _LISTED else ""
            raise ValueError(
                f"{len(self.files)} of {self.total} files cannot be decoded, more than "
                f"task.max_quarantined_share={self.max_share}: repair them, take them out of the manifest, or raise "
                f"that share\n{listed}{more}"
            )

    def _note(self, index: int, name: str, reason: str) -> None:
        if index in self.noted:
            return
        self.noted.add(index)
        count = len(self.noted)
        if count <= _NOTED:
            logger.warning("%s: %s", name, reason)
        elif str(count).strip("0") == "1":  # 10, 100, 1000 ...
            logger.warning("%s: %s (%d files so far have such a remark)", name, reason, count)


class Substitutes:
    """For each utterance the others in the order in which they would stand in for it: a function of the sizes alone.

    Args:
        sizes: samples of each utterance.
    """

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = sizes
        self.by_size = np.argsort(sizes, kind="stable").astype(np.int32)
        self.rank = np.empty_like(self.by_size)
        self.rank[self.by_size] = np.arange(len(sizes), dtype=np.int32)

    def of(self, index: int, at_least: int = 0) -> Iterator[int]:
        """Utterances of at least `at_least` samples, nearest in size first: longer ones before shorter ones at the
        same distance.
        """
        above, below = int(self.rank[index]) + 1, int(self.rank[index]) - 1
        while above < len(self.by_size) or below >= 0:
            if above < len(self.by_size):
                if self.sizes[self.by_size[above]] >= at_least:
                    yield int(self.by_size[above])
                above += 1
            if below >= 0:
                if self.sizes[self.by_size[below]] < at_least:
                    below = -1
                else:
                    yield int(self.by_size[below])
                    below -= 1


class PatientReader:
    """Reads crops of utterances, and where a file cannot be decoded, of the one that stands in for it.

    Args:
        sizes: samples of each utterance.
        read: (index, start, out): fill `out` with the utterance's samples from `start`, and say what the file's header
            says, or None; raises UnreadableAudio.
        name: what logs call an utterance.
        check: called with an utterance that cannot be read; raises ValueError where its whole folder is missing.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        read: Callable[[int, int, np.ndarray], Samples | None],
        name: Callable[[int], str],
        check: Callable[[int], None] = lambda index: None,
    ) -> None:
        self.sizes = sizes
        self.read = read
        self.name = name
        self.check = check
        self.unreadable: dict[int, str] = {}  # what this process has given up, so that it does not wait for it again
        self._substitutes: Substitutes | None = None

    def crop(
        self, index: int, row: np.ndarray, at_least: int, place: float, quarantined: list[Trouble]
    ) -> tuple[int, int]:
        """Fill a row with samples of an utterance, as many as there are: (index that was read, samples that were
        written).

        Args:
            row: float32, S.
            at_least: samples that a substitute must have.
            place: where the crop begins, from 0 to 1 (excluded) of the places that there are.
            quarantined: takes what could not be decoded, or is odd.
        Raises:
            ValueError: hardly anything can be decoded, or the manifest's root is not there.
        """
        candidates: Iterator[int] | None = None
        for tried in range(_MOST_SUBSTITUTES):
            length = min(int(self.sizes[index]), len(row))
            start = int(place * (int(self.sizes[index]) - length + 1))
            try:
                samples = self._read_patiently(index, start, row[:length], _PAUSES if tried < _PATIENT else ())
                quarantined.extend(self._remarks(index, samples))
                return index, length
            except UnreadableAudio as error:
                self.check(index)
                quarantined.append(Trouble(index, self.name(index), str(error)))
                row[:length] = 0  # what it had decoded before it failed
            if candidates is None:
                self._substitutes = self._substitutes or Substitutes(self.sizes)
                candidates = self._substitutes.of(index, at_least)
            index = next(candidates, -1)
            if index < 0:
                break
        bad = [trouble for trouble in quarantined if trouble.replaced]
        names = "\n".join(f"  {trouble.name}: {trouble.reason}" for trouble in bad[-5:])
        raise ValueError(
            f"{len(bad)} files in a row cannot be decoded: is the disk there, and the manifest's root (line 1) "
            f"right? The last:\n{names}"
        )

    def _remarks(self, index: int, samples: Samples | None) -> Iterator[Trouble]:
        """What is odd about a file that was read."""
        if samples is None:
            return
        if samples.note is not None:
            yield Trouble(index, self.name(index), samples.note, replaced=False)
        size, length = int(self.sizes[index]), samples.file_length
        if length is not None and is_longer(length, size):
            reason = (
                f"has {length:,} samples, but the manifest says {size:,}, and only so many are used: the file "
                "changed, or the manifest was made for another sample rate. Make the manifest again"
            )
            yield Trouble(index, self.name(index), reason, replaced=False)

    def _read_patiently(self, index: int, start: int, out: np.ndarray, pauses: Sequence[float]) -> Samples | None:
        if index in self.unreadable:
            raise UnreadableAudio(self.unreadable[index])
        for pause in pauses:
            try:
                return self.read(index, start, out)
            except UnreadableAudio as error:
                if error.lasts:
                    break
                time.sleep(pause)
        try:
            return self.read(index, start, out)
        except UnreadableAudio as error:
            self.unreadable[index] = str(error)
            raise
