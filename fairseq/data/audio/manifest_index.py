"""Read a manifest's lines; those of a large one from an index beside it, which is made at the first start.

The index of `train.tsv` is `train.tsv.index`: the manifest's text and the columns as arrays, which processes map. It
is used only if it belongs to the manifest (size, modification time and checksum) and is undamaged (checksum).
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import gzip
import hashlib
import json
import logging
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from fairseq.data.audio.manifest_lines import LineParser, blocks, read_root
from fairseq.data.mapped import Column, Region

logger = logging.getLogger(__name__)

_LARGE = 1 << 24  # bytes of a manifest that gets an index; 16 MB parse in 0.2 s
_COMPRESSED = 8  # a .gz of an eighth of that is as large
_MAGIC = b"fairseq manifest index 1\n"
_ALIGNMENT = 64
_ENDING = struct.Struct("<QI")  # length and CRC-32 of the JSON before it
_PIECE = 1 << 22


class Lines(NamedTuple):
    """The contents of a manifest."""

    root: str
    first_line: int  # bytes of the root's line, without its line feed
    text: np.ndarray  # uint8: the manifest without byte order mark
    begins: np.ndarray  # int64: first byte of each line in the text
    sizes: np.ndarray  # int64
    starts: np.ndarray | None  # int64
    listing: str | None  # digest of the text after the first line; None: not computed


class _Parsed(NamedTuple):
    """A manifest's contents in columns that are not mapped yet."""

    root: str
    first_line: int
    columns: dict[str, Column]
    listing: str

    def lines(self) -> Lines:
        found = {name: column.array() for name, column in self.columns.items()}
        return Lines(
            self.root,
            self.first_line,
            found["text"],
            found["begins"],
            found["sizes"],
            found.get("starts"),
            self.listing,
        )


def find(path: str) -> str:
    """Return a manifest's path, or that of its compressed form `path`.gz if only this exists."""
    return f"{path}.gz" if not os.path.exists(path) and os.path.exists(f"{path}.gz") else path


def load(path: str) -> Lines:
    """Read a manifest, or the index beside it.

    Args:
        path: the manifest; compressed if the name ends with .gz.
    Raises:
        OSError: the file cannot be read.
        ValueError: a line is malformed.
    """
    large = _LARGE // _COMPRESSED if path.endswith(".gz") else _LARGE
    if os.path.getsize(path) < large:
        return _parse(path, None).lines()
    index = Path(f"{path}.index")
    found = _open(path, index)
    if found is not None:
        return found
    began = time.perf_counter()
    with _alone(path) as locked:
        found = _open(path, index) if locked else None  # another process may have made it
        if found is None:
            found = _make(path, index, locked)
    logger.info("%s: read %d lines in %.1f s", path, len(found.sizes), time.perf_counter() - began)
    return found


# -- the manifest itself -----------------------------------------------------------------------------------------------


def _parse(path: str, folder: Path | None) -> _Parsed:
    """Read and parse a manifest in blocks; long columns are written to files without names in `folder`."""
    try:
        with _opened(path) as file:
            root, first = read_root(file, path)
            parser, size = LineParser(path), len(first)
            columns = {"text": Column(np.uint8, folder)}
            columns |= {name: Column(np.int64, folder) for name in ("begins", "sizes", "starts")}
            columns["text"].append(np.frombuffer(first, dtype=np.uint8))
            first_line = len(first.rstrip(b"\n"))
            listing = hashlib.blake2b(first[first_line:], digest_size=16)
            for block in blocks(file):
                found = parser.parse(block, size)
                size += len(block)
                listing.update(block)
                columns["text"].append(np.frombuffer(block, dtype=np.uint8))
                columns["begins"].append(found.begins)
                columns["sizes"].append(found.sizes)
                if found.starts is not None:
                    columns["starts"].append(found.starts)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}. Compress the manifest again.") from error
    if parser.columns != 3:
        del columns["starts"]
    return _Parsed(root, first_line, columns, listing.hexdigest())


def _opened(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.endswith(".gz") else open(path, "rb")


class _Identity(NamedTuple):
    """What an index must agree with."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> _Identity:
        status = os.stat(path)
        return cls(status.st_size, status.st_mtime_ns)


def _sha256(path: str) -> str:
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            checksum.update(piece)
    return checksum.hexdigest()


# -- the index ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(path: str) -> Iterator[bool]:
    """Let one process of a machine at a time make the index; yields whether the file system has locks."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked  # closing the file ends the lock


def _make(path: str, index: Path, locked: bool) -> Lines:
    """Parse a large manifest and write its index; if it cannot be written, keep the lines in memory."""
    logger.info("%s: reading it for the first time, or it has changed", path)
    identity = _Identity.of(path)
    host = socket.gethostname()
    part = Path(f"{index}.{host}.{os.getpid()}.part")
    try:
        if locked:
            for old in index.parent.glob(
                f"{glob.escape(index.name)}.{glob.escape(host)}.*.part"
            ):  # of a process that was killed
                old.unlink(missing_ok=True)
        parsed = _parse(path, index.parent)
        note = {"identity": list(identity), "sha256": _sha256(path), "listing": parsed.listing}
        try:
            _write(part, parsed, note)
            if _Identity.of(path) != identity:
                raise ValueError(f"{path} changed while it was read. Start again when it is complete.")
            found = _contents(path, part)
            assert found is not None, "a new index agrees with itself"
            os.replace(part, index)
            return found
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        logger.info(  # rank 0's line is enough
            "cannot write %s (%s): the lines are kept in memory, and every start reads the whole manifest",
            index,
            error.strerror or error,
        )
    return _parse(path, None).lines()


def _write(part: Path, parsed: _Parsed, note: dict[str, Any]) -> None:
    sections = {}
    with open(part, "xb+") as file:
        file.write(_MAGIC)
        for name, column in parsed.columns.items():
            file.write(bytes(-file.tell() % _ALIGNMENT))
            sections[name] = [file.tell(), column.size]
            column.copy_to(file)
        note = {**note, "sections": sections, "bytes": file.tell(), "first_line": parsed.first_line}
        note["crc32"] = _crc32(file, file.tell())
        text = json.dumps(note).encode()
        file.seek(0, os.SEEK_END)
        file.write(text)
        file.write(_ENDING.pack(len(text), zlib.crc32(text)))


def _crc32(file: BinaryIO, size: int) -> int:
    checksum = 0
    file.seek(0)
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        checksum = zlib.crc32(piece, checksum)
        size -= len(piece)
    return checksum


def _note(file: BinaryIO) -> dict[str, Any] | None:
    """Read the JSON at the end of an index; None if it is not one."""
    if file.read(len(_MAGIC)) != _MAGIC:
        return None
    end = file.seek(0, os.SEEK_END) - _ENDING.size
    file.seek(max(0, end))
    ending = file.read()
    if len(ending) != _ENDING.size:
        return None
    length, checksum = _ENDING.unpack(ending)
    if length > end:
        return None
    file.seek(end - length)
    text = file.read(length)
    return json.loads(text) if zlib.crc32(text) == checksum else None


def _open(path: str, index: Path) -> Lines | None:
    """Open an index; None if it does not exist, is damaged, or belongs to another manifest."""
    try:
        with open(index, "rb") as file:
            note = _note(file)
            if note is None or note["identity"] != list(_Identity.of(path)) or note["sha256"] != _sha256(path):
                return None
            if _crc32(file, note["bytes"]) != note["crc32"]:
                logger.warning("%s is damaged, and is made again", index)
                return None
        return _contents(path, index)
    except OSError:
        return None


def _contents(path: str, index: Path) -> Lines | None:
    """Map an index whose checksums are right."""
    with open(index, "rb") as file:
        note = _note(file)
        if note is None:
            return None
        region = Region(file.fileno(), os.fstat(file.fileno()).st_size)
    arrays = {name: region.array("u1" if name == "text" else "<i8", *place) for name, place in note["sections"].items()}
    first_line = note["first_line"]
    root = os.fsdecode(arrays["text"][:first_line].tobytes().strip())
    return Lines(
        root,
        first_line,
        arrays["text"],
        arrays["begins"],
        arrays["sizes"],
        arrays.get("starts"),
        note["listing"],
    )
