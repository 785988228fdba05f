"""Audio files in which libsndfile cannot seek reliably, and files whose length must be counted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import soundfile

from fairseq.data.storage.ranges import Staged

UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile reports the largest possible number for an unknown length
FROM_THE_BEGINNING = 1 << 62  # frames of lead for a format that cannot seek
# frames: an MP3 block can store bits in earlier blocks, so after a seek the first 400 frames would be wrong
MPEG_LEAD = 4 * 1152
_BLOCK = 1 << 16  # values decoded at a time while they are counted or skipped
_REMEMBERED = 4096  # cached lengths

_lengths: dict[Hashable, int] = {}


class OnwardFile(soundfile.SoundFile):
    """A file that is read forward from its current position.

    It reports that it cannot seek. Otherwise SoundFile would seek to the current position after every read, which takes
    an eighth of the time of reading a crop, corrupts MP3 decoding, and which libsndfile cannot do at the end of a file
    of unknown length.

    Args:
        source: SoundFile's argument, or audio in a memory file.
        lead: frames to decode and discard before the target of a seek.
    """

    def __init__(self, source: Any, lead: int = 0) -> None:
        self.lead = lead
        self._staged = source if isinstance(source, Staged) else None
        if not isinstance(source, Staged):
            super().__init__(source)
            return
        try:
            super().__init__(source.descriptor, closefd=False)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Close the file, and free its memory."""
        super().close()
        self._release()

    def _release(self) -> None:
        if self._staged is not None:
            self._staged.release()
            self._staged = None

    def seekable(self) -> bool:
        return False

    def can_seek(self) -> bool:
        """Return whether libsndfile can seek in this file."""
        return super().seekable()

    def seek(self, frames: int, whence: int = soundfile.SEEK_SET) -> int:
        """Seek to a frame in a newly opened file.

        Raises:
            EOFError: the file ends before this frame.
        """
        assert whence == soundfile.SEEK_SET
        first = max(0, frames - self.lead)
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
    """A file whose header does not state its length, such as FLAC written to a pipe, or MP3 without a length tag.

    The length is counted by decoding the file once, with constant memory, and cached in this process.

    Args:
        source: creates SoundFile's argument; called again to open the file for counting.
        identity: cache key of the length: the file's path, size and modification time.
        lead: see OnwardFile.
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
