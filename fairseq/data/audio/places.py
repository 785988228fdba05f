"""Places: the strings that say where audio lies.

A place is a path, a byte range of an archive (`ARCHIVE:OFFSET:LENGTH`, for members of uncompressed zip and tar files),
or a URL of any file system that fsspec knows, with or without `:OFFSET:LENGTH`.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from fairseq.stores import is_url

AUDIO_EXTENSIONS = {".npy", ".wav", ".flac", ".ogg"}  # a name with one of these is a file, whatever colons it has
_LOCAL_URL = re.compile(r"(file|local)://(?=/)")


class Place(NamedTuple):
    """A file, and the range of its bytes that is audio; offset and length are None for the whole file."""

    file: str
    offset: int | None
    length: int | None


def parse(place: str) -> Place:
    """Split a place into a file and a byte range.

    `file:///a/b` becomes the path `/a/b`. A local file whose name ends like a range is that file.
    """
    text = _LOCAL_URL.sub("", place, count=1) if "://" in place else place
    rest, _, length = text.rpartition(":")
    file, _, offset = rest.rpartition(":")
    if not (file and (offset + length).isascii() and offset.isdecimal() and length.isdecimal()):
        return Place(text, None, None)
    # most places are ranges of archives: ask for the odd name without an exception
    if os.access(text, os.F_OK) and not is_url(text) and os.path.isfile(text):
        return Place(text, None, None)
    return Place(file, int(offset), int(length))
