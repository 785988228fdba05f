"""Audio files whose header does not say how long they are: FLAC written to a pipe, where an encoder cannot go back to fill it in."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import soundfile

UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile has the largest number that there is where it does not know
_BLOCK = 1 << 16  # frames decoded at a time while they are counted
_REMEMBERED = 4096  # lengths

_lengths: dict[Hashable, int] = {}


class StreamedFile(soundfile.SoundFile):
    """Such a file, open for reading: its length is counted by decoding it once, at constant memory, and remembered by this process.

    Args:
        file: what SoundFile takes.
        identity: of the contents, for which the length is remembered: a file's path, size and time.
    """

    def __init__(self, file: Any, identity: Hashable) -> None:
        super().__init__(file)
        self._identity = identity

    def seekable(self) -> bool:
        """No: after every read SoundFile seeks to where it is in a file that is, and libsndfile cannot do so at an end it does not know."""
        return False

    @property
    def frames(self) -> int:
        """Frames in the file; ask before reading, as this goes back to where the file was."""
        if self._identity not in _lengths:
            if len(_lengths) >= _REMEMBERED:
                _lengths.pop(next(iter(_lengths)))
            _lengths[self._identity] = self._count()
        return _lengths[self._identity]

    def _count(self) -> int:
        place = self.seek(0, soundfile.SEEK_CUR)
        self.seek(0)
        block = np.empty((_BLOCK, self.channels), dtype=np.float32)
        count = last = len(self.read(out=block))
        while last == _BLOCK:
            last = len(self.read(out=block))
            count += last
        self.seek(place)
        return count
