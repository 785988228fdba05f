"""Files that cannot be decoded: replace them, and stop the run if there are too many."""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fairseq.data.audio.audio_utils import Samples, UnreadableAudio
from fairseq.data.batching import stable_order

logger = logging.getLogger(__name__)

_LISTED = 20  # maximum number of names in an error
_PAUSES = (0.1, 0.5)  # seconds before each retry: network file systems have short failures
_PATIENT = 3  # files per crop that are retried; if more fail in a row, waiting only delays the error
_NOTED = 3  # remarks that are logged in full
_LONGER, _BLOCK = 1.01, 1152  # tolerance for a file longer than its manifest says: a factor, and one MP3 block
_MOST_SUBSTITUTES = 100  # this many unreadable files in a row mean that the disk is unavailable


class Trouble(NamedTuple):
    """A batch's report on a file."""

    utterance: int  # index of the utterance
    name: str
    reason: str
    replaced: bool = True  # True: it could not be decoded; False: it is used, with a remark


def is_longer(length: int, size: int) -> bool:
    """Return whether a file of `length` samples exceeds the manifest's `size` by more than the tolerance."""
    return length > size * _LONGER + _BLOCK


class Quarantine:
    """Collects, in the training process, the files that batches report.

    Args:
        total: number of utterances in the data set.
        max_share: task.max_quarantined_share: the run stops if more than this share of them cannot be decoded.
    """

    def __init__(self, total: int, max_share: float) -> None:
        self.total = total
        self.max_share = max_share
        self.files: dict[int, tuple[str, str]] = {}  # index -> name, reason
        self.noted: set[int] = set()  # files that are used, with a remark

    def report(self, items: Iterable[Trouble]) -> None:
        """Record a batch's list; each file is logged once.

        Raises:
            ValueError: more than the allowed share cannot be decoded; lists the files.
        """
        for index, name, reason, replaced in items:
            if not replaced:
                self._note(index, name, reason)
                continue
            if index in self.files:
                continue
            self.files[index] = (name, reason)
            logger.warning("%s cannot be decoded, and is replaced by an utterance of similar length: %s", name, reason)
        if len(self.files) > self.max_share * self.total:
            listed = "\n".join(f"  {name}: {reason}" for name, reason in list(self.files.values())[:_LISTED])
            more = f"\n  and {len(self.files) - _LISTED} more" if len(self.files) > _LISTED else ""
            raise ValueError(
                f"{len(self.files)} of {self.total} files cannot be decoded, more than "
                f"task.max_quarantined_share={self.max_share} allows. Repair them, remove them from the manifest, or "
                f"raise task.max_quarantined_share:\n{listed}{more}"
            )

    def _note(self, index: int, name: str, reason: str) -> None:
        if index in self.noted:
            return
        self.noted.add(index)
        count = len(self.noted)
        if count <= _NOTED:
            logger.warning("%s: %s", name, reason)
        elif str(count).strip("0") == "1":  # 10, 100, 1000 ...
            logger.warning("%s: %s (files with remarks so far: %d)", name, reason, count)


class Substitutes:
    """Replacements for each utterance, in order of preference, which depends only on the sizes.

    Args:
        sizes: samples of each utterance.
    """

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = sizes
        self.by_size = stable_order(sizes).astype(np.int32)  # 4 bytes each, in every worker that needs it

    def of(self, index: int, at_least: int = 0) -> Iterator[int]:
        """Yield utterances of at least `at_least` samples, alternating between the next longer and next shorter."""
        own = (int(self.sizes[index]), index)
        rank = bisect.bisect_left(self.by_size, own, key=lambda other: (int(self.sizes[other]), int(other)))
        above, below = rank + 1, rank - 1
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
    """Reads crops of utterances; if a file cannot be decoded, reads from a replacement.

    Args:
        sizes: samples of each utterance.
        read: called with (index, start, out): fills `out` with the utterance's samples from `start`, and returns them
            with the header's length, or None; raises UnreadableAudio.
        name: returns the name of an utterance for logs.
        check: called with an utterance that cannot be read; raises ValueError if its whole folder is missing.
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
        self.unreadable: dict[int, str] = {}  # files that failed in this process, not retried
        self._substitutes: Substitutes | None = None

    def crop(
        self, index: int, row: np.ndarray, at_least: int, place: float, quarantined: list[Trouble]
    ) -> tuple[int, int]:
        """Fill a row with samples of an utterance; return (index that was read, number of samples written).

        Args:
            index: the utterance.
            row: float32, S, the buffer to fill.
            at_least: minimum samples of a replacement.
            place: relative position of the crop among the possible ones, from 0 to 1 (excluded).
            quarantined: list that receives files that could not be decoded or that need a remark.
        Raises:
            ValueError: too many files in a row cannot be decoded, or the manifest's root is missing.
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
                row[:length] = 0  # clear samples decoded before the failure
            if candidates is None:
                self._substitutes = self._substitutes or Substitutes(self.sizes)
                candidates = self._substitutes.of(index, at_least)
            index = next(candidates, -1)
            if index < 0:
                break
        bad = [trouble for trouble in quarantined if trouble.replaced]
        names = "\n".join(f"  {trouble.name}: {trouble.reason}" for trouble in bad[-5:])
        raise ValueError(
            f"{len(bad)} files in a row cannot be decoded. Check that the disk is available, and that the manifest's "
            f"root (line 1) is correct. The last files:\n{names}"
        )

    def _remarks(self, index: int, samples: Samples | None) -> Iterator[Trouble]:
        """Yield remarks on a file that was read."""
        if samples is None:
            return
        if samples.note is not None:
            yield Trouble(index, self.name(index), samples.note, replaced=False)
        size, length = int(self.sizes[index]), samples.file_length
        if length is not None and is_longer(length, size):
            reason = (
                f"has {length:,} samples, but the manifest says {size:,}, so only {size:,} are used: the file has "
                "changed, or the manifest was created for another sample rate. Create the manifest again."
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
