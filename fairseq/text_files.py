"""Read users' text files: UTF-8, with or without a byte order mark. Errors name the file and the line."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO

BOM = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LONGEST = 1 << 26  # bytes per line: a compressed file can expand to far more than its size on disk
_BLANKS = " \t\r\n\0"  # KenLM and flashlight split at these; str.split() would also split at a no-break space
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}  # by first bytes


class MissingFileError(FileNotFoundError, ValueError):
    """A file that the user named does not exist."""


@contextlib.contextmanager
def named_errors(path: str | os.PathLike[str], what: str, advice: str = "") -> Iterator[None]:
    """Convert errors from reading a file to errors that describe and name the file.

    Args:
        what: description of the file, such as "the lexicon".
        advice: text to append to the message.
    Raises:
        MissingFileError: the file does not exist.
        ValueError: the file cannot be read, or its compressed data is damaged.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"cannot read {what} {os.fspath(path)}: {error.strerror}{advice}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ValueError(f"cannot read {what} {os.fspath(path)}: {reason}{advice}") from error


def _opener(path: str | os.PathLike[str]) -> Callable[..., IO[bytes]]:
    with open(path, "rb") as file:
        begin = file.read(8)
    return next((opener for magic, opener in _COMPRESSED.items() if begin.startswith(magic)), open)


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Return whether `open_bytes` decompresses the file."""
    return _opener(path) is not open


def open_bytes(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file in binary mode, and decompress it if it is a gzip, bzip2 or xz file."""
    return _opener(path)(path, "rb")


def iterate_lines(path: str | os.PathLike[str], what: str) -> Iterator[str]:
    """Yield the lines of a text file without their line endings ("\\n" or "\\r\\n").

    Args:
        what: description of the file for error messages, such as "the lexicon".
    Raises:
        MissingFileError: the file does not exist.
        ValueError: the file cannot be read, or is not UTF-8; names the file and the line.
    """
    with named_errors(path, what), open_bytes(path) as file:
        number = 0
        while line := file.readline(_LONGEST):
            number += 1
            if number == 1:
                if line.startswith(UTF16_MARKS):
                    raise ValueError(f"{what} {os.fspath(path)} is UTF-16. Save it as UTF-8.")
                line = line.removeprefix(BOM)
            if len(line) == _LONGEST:
                raise ValueError(
                    f"{what} {os.fspath(path)}, line {number} is longer than {_LONGEST >> 20} MiB: the file is damaged."
                )
            try:
                yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"cannot read {what} {os.fspath(path)}, line {number}: byte {error.start + 1} of the line is "
                    "not UTF-8. Save the file as UTF-8."
                ) from error


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """Read all lines of a text file; raises the same errors as `iterate_lines`."""
    return list(iterate_lines(path, what))


def split(text: str) -> list[str]:
    """Split text at blanks and tabs; other kinds of space are part of words, as in KenLM and flashlight."""
    for blank in _BLANKS[1:]:
        text = text.replace(blank, " ")
    return [part for part in text.split(" ") if part]
