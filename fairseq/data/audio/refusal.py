"""Identify files that do not open as audio, and suggest a fix."""

from __future__ import annotations

_CONVERT = "convert it first: ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav"
_KNOWN = (  # (offset, first bytes, what it is and what to do)
    (0, b"version https://git-lfs.github.com/", "it is a Git LFS pointer, not the file itself: run git lfs pull"),
    (4, b"ftyp", f"it is an MP4 or M4A file, which libsndfile cannot decode; {_CONVERT}"),
    (0, b"\x1a\x45\xdf\xa3", f"it is a Matroska or WebM file, which libsndfile cannot decode; {_CONVERT}"),
    (0, b"\x30\x26\xb2\x75", f"it is a WMA or WMV file, which libsndfile cannot decode; {_CONVERT}"),
    (0, b"#!AMR", f"it is an AMR file, which libsndfile cannot decode; {_CONVERT}"),
    (8, b"AVI ", f"it is an AVI video, which libsndfile cannot decode; {_CONVERT}"),
    (0, b"\xff\xf1", f"it is an AAC file, which libsndfile cannot decode; {_CONVERT}"),
    (0, b"\xff\xf9", f"it is an AAC file, which libsndfile cannot decode; {_CONVERT}"),
    (0, b"PK\x03\x04", "it is a zip archive: unpack it first"),
    (0, b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
    (0, b"\x93NUMPY", "it is a NumPy array, not an audio file"),
)
_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head")
LONGEST = 512  # bytes at the beginning of a file that are inspected


class UnreadableAudio(Exception):
    """A file cannot be decoded, or has fewer frames than its manifest says; the message omits the file's name.

    Args:
        reason: the message.
        lasts: whether another try cannot succeed, because the contents themselves are wrong.
    """

    def __init__(self, reason: str, lasts: bool = False) -> None:
        super().__init__(reason)
        self.lasts = lasts


def what_it_is(start: bytes) -> str | None:
    """Describe a file that begins with these bytes; None if they are unknown."""
    if not start:
        return "the file is empty"
    for offset, mark, sentence in _KNOWN:
        if start[offset : offset + len(mark)] == mark:
            return sentence
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE):
        return "it is a web page (HTML), not audio: download the file again, and check the address and access rights"
    if not start.strip(b"\0"):
        return "it begins with zero bytes only, as after an interrupted download or with a full disk"
    return None
