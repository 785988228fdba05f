"""Correct headers that do not state the length of the audio.

libsndfile trusts headers: it finds no samples in a WAV file whose recorder was killed (data size 0), and decodes an MP3
file without a length tag up to its own estimate, which can be half of the audio. `VirtualFile` presents such a file to
it with other bytes or another length.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import BinaryIO

_FEW = 1 << 16  # bytes; a WAV file's data chunk must begin within them
_DS64_DATA = 28  # offset of the data size in RF64
_ID3_HEADER = 10
_OVERSTATED = 64  # the highest bit rate of MPEG audio is 40 times the lowest
_LAST = 128  # bytes at the end that libmpg123 reads to look for an ID3v1 tag


class VirtualFile:
    """A binary file that libsndfile reads through callbacks, which must not raise.

    Args:
        file: the real file.
        length: the length to report, in bytes.
        patches: (offset, bytes) that replace the file's contents, even beyond its real end.
    """

    def __init__(self, file: BinaryIO, length: int, patches: Sequence[tuple[int, bytes]] = ()) -> None:
        self._file, self._length, self._patches, self._place = file, length, list(patches), 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from the current position; return the number of bytes read."""
        view, begin = memoryview(buffer).cast("B"), self._place
        try:
            self._file.seek(begin)
            count = self._file.readinto(view)  # type: ignore[attr-defined]
        except (OSError, OverflowError, ValueError):  # libsndfile sees a file that ends here
            count = 0
        for offset, content in self._patches:
            first, last = max(offset, begin), min(offset + len(content), begin + len(view))
            if first < last and first <= begin + count:
                view[first - begin : last - begin] = content[first - offset : last - offset]
                count = max(count, last - begin)
        self._place += count
        return count


# -- MP3 ---------------------------------------------------------------------------------------------------------------


def mpeg_states_length(file: BinaryIO) -> bool:
    """Return whether an MPEG audio file has a Xing, Info or VBRI tag that states its number of frames."""
    file.seek(0)
    start = file.read(_ID3_HEADER)
    place = 0
    while start[:3] == b"ID3" and len(start) == _ID3_HEADER:  # more tags can follow the first
        size = start[6] << 21 | start[7] << 14 | start[8] << 7 | start[9]
        place += _ID3_HEADER + size + (_ID3_HEADER if start[5] & 0x10 else 0)
        file.seek(place)
        start = file.read(_ID3_HEADER)
    file.seek(place)
    frame = file.read(192)  # a tag is at most 38 bytes after the first frame's header
    for mark in (b"Xing", b"Info"):
        at = frame.find(mark)
        if at >= 0 and len(frame) >= at + 8:
            return bool(frame[at + 7] & 1)
    return b"VBRI" in frame


def overstated(file: BinaryIO, size: int) -> VirtualFile:
    """Overstate an MPEG file's length, so that libsndfile's estimate does not truncate it before its real end."""
    length = size * _OVERSTATED
    return VirtualFile(file, length, [(length - _LAST, bytes(_LAST))])


# -- WAV and AU --------------------------------------------------------------------------------------------------------


def completed(file: BinaryIO, size: int) -> VirtualFile | None:
    """Fill in the data size of a WAV or AU file of an interrupted recording; None if it is not such a file."""
    file.seek(0)
    start = file.read(_FEW)
    if start[:4] == b".snd" and int.from_bytes(start[8:12], "big") == 0 and size > int.from_bytes(start[4:8], "big"):
        return VirtualFile(file, size, [(8, b"\xff\xff\xff\xff")])  # AU's value for an unknown size
    if start[:4] not in (b"RIFF", b"RF64") or start[8:12] != b"WAVE":
        return None
    large = start[:4] == b"RF64" and start[12:16] == b"ds64"  # then this chunk has the sizes
    place = 12
    while place + 8 <= len(start):
        name, length = start[place : place + 4], int.from_bytes(start[place + 4 : place + 8], "little")
        if name == b"data":
            rest = size - place - 8
            stated = int.from_bytes(start[_DS64_DATA : _DS64_DATA + 8], "little") if large else length
            if stated != 0 or rest == 0 or _is_chunks(start[place + 8 :], rest):
                return None
            whole = rest.to_bytes(8, "little") if large else min(rest, 0xFFFFFFFF).to_bytes(4, "little")
            return VirtualFile(file, size, [(_DS64_DATA if large else place + 4, whole)])
        place += 8 + length + length % 2
    return None


def _is_chunks(start: bytes, size: int) -> bool:
    """Return whether `size` bytes that begin like this are further RIFF chunks (so the data is empty), not samples."""
    place = 0
    while place + 8 <= len(start):
        name, length = start[place : place + 4], int.from_bytes(start[place + 4 : place + 8], "little")
        if not (name.isascii() and name.decode("ascii").isprintable()):
            return False
        place += 8 + length + length % 2
    return size - 1 <= place <= size + 1
