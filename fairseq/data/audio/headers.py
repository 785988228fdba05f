"""Headers that do not say how long the audio is, and files presented with a header that does.

libsndfile takes a header at its word: a WAV file whose recorder was killed (data size 0) has no samples for it, and of
an MP3 file without a length tag it decodes as much as it estimates, which may be half of the audio. `VirtualFile` shows
it such a file with other bytes or another length.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import BinaryIO

_FEW = 1 << 16  # bytes at the beginning of a WAV file among which its data chunk must begin
_DS64_DATA = 28  # where RF64 has the size of its data
_ID3_HEADER = 10
_OVERSTATED = 64  # the highest bit rate of MPEG audio is 40 times the lowest
_LAST = 128  # bytes at the end that libmpg123 asks for, looking for an ID3v1 tag


class VirtualFile:
    """A binary file as libsndfile sees it through callbacks, which must not raise.

    Args:
        file: the real one.
        length: its length in bytes, as it is stated.
        patches: (offset, bytes): what stands there instead; also beyond the real end.
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
        """Fill the buffer from the current place; returns the bytes that there were."""
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
    """Whether an MPEG audio file has a Xing, Info or VBRI tag with the number of its frames."""
    file.seek(0)
    start = file.read(_ID3_HEADER)
    place = 0
    while start[:3] == b"ID3" and len(start) == _ID3_HEADER:  # further tags may follow the first
        size = start[6] << 21 | start[7] << 14 | start[8] << 7 | start[9]
        place += _ID3_HEADER + size + (_ID3_HEADER if start[5] & 0x10 else 0)
        file.seek(place)
        start = file.read(_ID3_HEADER)
    file.seek(place)
    frame = file.read(192)  # a tag stands at most 38 bytes after the first frame's header
    for mark in (b"Xing", b"Info"):
        at = frame.find(mark)
        if at >= 0 and len(frame) >= at + 8:
            return bool(frame[at + 7] & 1)
    return b"VBRI" in frame


def overstated(file: BinaryIO, size: int) -> VirtualFile:
    """An MPEG file that seems longer than it is, so that libsndfile's estimate does not cut it short: the decoder
    finds the real end.
    """
    length = size * _OVERSTATED
    return VirtualFile(file, length, [(length - _LAST, bytes(_LAST))])


# -- WAV and AU --------------------------------------------------------------------------------------------------------


def completed(file: BinaryIO, size: int) -> VirtualFile | None:
    """A WAV or AU file of a recording that was interrupted, with the size of its data filled in; None where that is
    not what is wrong.
    """
    file.seek(0)
    start = file.read(_FEW)
    if start[:4] == b".snd" and int.from_bytes(start[8:12], "big") == 0 and size > int.from_bytes(start[4:8], "big"):
        return VirtualFile(file, size, [(8, b"\xff\xff\xff\xff")])  # AU's own word for an unknown size
    if start[:4] not in (b"RIFF", b"RF64") or start[8:12] != b"WAVE":
        return None
    large = start[:4] == b"RF64" and start[12:16] == b"ds64"  # then that chunk has the sizes
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
    """Whether these bytes, the first of `size`, are further chunks of a RIFF file (then its data is empty) and not
    samples.
    """
    place = 0
    while place + 8 <= len(start):
        name, length = start[place : place + 4], int.from_bytes(start[place + 4 : place + 8], "little")
        if not (name.isascii() and name.decode("ascii").isprintable()):
            return False
        place += 8 + length + length % 2
    return size - 1 <= place <= size + 1
