"""Audio files that libsndfile cannot go about in freely, and files whose length has to be counted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import soundfile

UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile has the largest number that there is where it does not know
FROM_THE_BEGINNING = 1 << 62  # frames of lead for a format without any way to seek
# frames: a block of MP3 may keep its bits in those before it; after a seek the first 400 frames would be wrong
MPEG_LEAD = 4 * 1152
_BLOCK = 1 << 16  # values decoded at a time while they are counted or skipped
_REMEMBERED = 4096  # lengths

_lengths: dict[Hashable, int] = {}


class OnwardFile(soundfile.SoundFile):
    """A file that is read onwards from where it is.

    SoundFile takes it for one that cannot seek: else it would seek to where it is after every read, which spoils MP3's
    decoder, and which libsndfile cannot do at an end that it does not know.

    Args:
        source: what SoundFile takes.
        lead: frames that are decoded and dropped before the place that is sought.
    """

    def __init__(self, source: Any, lead: int = 0) -> None:
        super().__init__(source)
        self._lead = lead

    def seekable(self) -> bool:
        return False

    def seek(self, frames: int, whence: int = soundfile.SEEK_SET) -> int:
        """Go to a frame, in a file that has just been opened.

        Raises:
            EOFError: the file ends before that.
        """
        assert whence == soundfile.SEEK_SET
        first = max(0, frames - self._lead)
        if first:
            super().seek(first)
        block = np.empty((max(1, _BLOCK // self.channels), self.channels), dtype=np.float32)
        left = frames - first
        while left > 0:
            count = len(self.read(out=block[:left]))
            if count == 0:
                raise EOFError(f"it ends after {frames - left} frames")
            left -= count
        return frames


class CountedFile(OnwardFile):
    """A file whose header does not say how long it is, or only estimates it: FLAC written to a pipe, MP3 without a
    length tag.

    Its length is counted by decoding it once, at constant memory, and remembered by this process.

    Args:
        source: makes what SoundFile takes; a second one is opened for counting.
        identity: of the contents, for which the length is remembered: a file's path, size and time.
    """

    def __init__(self, source: Callable[[], Any], identity: Hashable, lead: int = 0) -> None:
        super().__init__(source(), lead)
        self._source, self._identity = source, identity

    @property
    def frames(self) -> int:
        """Frames in the file."""
        if self._identity not in _lengths:
            if len(_lengths) >= _REMEMBERED:
                _lengths.pop(next(iter(_lengths)))
            _lengths[self._identity] = self._count()
        return _lengths[self._identity]

    def _count(self) -> int:
        with OnwardFile(self._source()) as file:
            block = np.empty((max(1, _BLOCK // file.channels), file.channels), dtype=np.float32)
            count = 0
            while last := len(file.read(out=block)):
                count += last
            return count
