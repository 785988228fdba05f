"""fairseq's compression of file names. Manifests here do not need it (see `fairseq.data.audio.manifest`)."""

from __future__ import annotations

import zlib
from enum import Enum


class TextCompressionLevel(Enum):
    none = 0
    low = 1
    high = 2


class TextCompressor:
    """Converts text to bytes and back.

    Args:
        level: none (UTF-8) or low (zlib).
        max_input_byte_length: fairseq's limit for level high; not used.
    Raises:
        ValueError: the level is high, which needs an extra package.
    """

    def __init__(self, level: TextCompressionLevel, max_input_byte_length: int = 2**16) -> None:
        if level is TextCompressionLevel.high:
            raise ValueError("TextCompressionLevel.high is not offered here: use TextCompressionLevel.low.")
        self.level = level
        self.max_input_length = max_input_byte_length

    def compress(self, text: str) -> bytes:
        data = text.encode()
        return zlib.compress(data, level=0) if self.level is TextCompressionLevel.low else data

    def decompress(self, compressed: bytes) -> str:
        return (zlib.decompress(compressed) if self.level is TextCompressionLevel.low else compressed).decode()
