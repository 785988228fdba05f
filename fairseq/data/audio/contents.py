"""The bytes of an audio file or of an archive's member, before they are decoded."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Hashable
from typing import Any, BinaryIO, NamedTuple

from fairseq.data.audio.places import AUDIO_EXTENSIONS, Place, parse
from fairseq.data.audio.refusal import LONGEST, UnreadableAudio, what_it_is
from fairseq.data.storage.answers import StoreError
from fairseq.data.storage.ranges import Staged, open_range, staged_bytes, staged_range
from fairseq.data.storage.reader import open_remote, reader
from fairseq.stores import is_url

SF_AUDIO_FILE_EXTENSIONS = {".wav", ".flac", ".ogg"}
FEATURE_OR_SF_AUDIO_FILE_EXTENSIONS = AUDIO_EXTENSIONS


class Contents(NamedTuple):
    """An audio file's bytes, not yet opened."""

    binary: Callable[[], BinaryIO]  # opens a binary file
    source: Callable[[], Any]  # creates OnwardFile's argument
    size: int  # bytes
    identity: Hashable
    place: Place
    failures: list[StoreError]  # of reads from a store, which libsndfile takes for the end of the file


def contents(path: str) -> Contents:
    """Find the bytes of a place.

    Raises:
        UnreadableAudio: the file is not a regular file, or the archive ends before the member does.
        ValueError: the file does not exist, and the path is not of the form archive:offset:length.
        OSError: the archive does not exist.
        StoreError: the object of a URL cannot be read.
    """
    place = parse(path)
    if is_url(place.file):
        return _remote(path, place)
    if place.offset is None and os.path.splitext(path)[1] not in AUDIO_EXTENSIONS:
        _check_exists(place.file)
    return _member(path, place) if place.offset is not None else _file(path, place)


def _file(path: str, place: Place) -> Contents:
    status = os.stat(place.file)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise UnreadableAudio(f"{place.file} is {kind}, not an audio file")
    name = os.fsencode(place.file)  # as bytes: SoundFile fails to encode names that are not UTF-8
    identity = (path, status.st_size, status.st_mtime_ns)
    return Contents(lambda: open(name, "rb", buffering=0), lambda: name, status.st_size, identity, place, [])


def _member(path: str, place: Place) -> Contents:
    status = _archive_status(place.file)
    offset, length = place.offset or 0, place.length or 0
    _check_range(offset, length, status.st_size)
    identity = (path, status.st_size, status.st_mtime_ns)

    def window() -> BinaryIO:
        return open_range(place.file, status, offset, length)

    def source() -> Staged | BinaryIO:
        return staged_range(place.file, status, offset, length) or window()

    return Contents(window, source, length, identity, place, [])


def _remote(path: str, place: Place) -> Contents:
    """Find the bytes of an object, fetching at least the first."""
    source = reader()
    remote = source.open(path, place)
    if place.length is not None and remote.stamp.size is not None:
        _check_range(remote.begin, place.length, remote.stamp.size)
    failures: list[StoreError] = []

    def binary() -> BinaryIO:
        return open_remote(source, remote, failures)

    def audio() -> Staged | BinaryIO:
        staged = staged_bytes(remote.start) if len(remote.start) == remote.size else None
        return staged or binary()

    return Contents(binary, audio, remote.size, (path, *remote.stamp), place, failures)


def _check_range(offset: int, length: int, size: int) -> None:
    if offset + length > size:
        raise UnreadableAudio(
            f"the manifest says bytes {offset:,} to {offset + length:,}, but the archive has only {size:,} bytes: it "
            "was cut short, or replaced since the manifest was written. Copy the archive again, or write its manifest "
            "again",
            lasts=True,
        )


def _archive_status(file: str) -> os.stat_result:
    try:
        status = os.stat(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"File not found: {file}") from error
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(f"File not found: {file} is not a regular file")
    return status


def _check_exists(file: str) -> None:
    if os.path.isdir(file):
        raise IsADirectoryError(f"{file} is a folder, not an audio file")
    if not os.path.exists(file):
        raise ValueError(f"{file} does not exist, and is not of the form archive.zip:offset:length.")


def describe(path: str) -> str | None:
    """Describe the contents of a place that libsndfile rejects, or why it does not open; None if unknown."""
    try:
        found = contents(path)
        with found.binary() as file:
            known = what_it_is(file.read(LONGEST))
    except OSError as error:
        return error.strerror
    if found.place.offset is None:
        return known
    begin, end = found.place.offset, found.place.offset + found.size
    reason = f"bytes {begin} to {end} of the archive are neither WAV nor FLAC nor Ogg, nor other audio that can be read"
    return reason if known is None else f"{reason}: {known}"


# -- fairseq's functions -----------------------------------------------------------------------------------------------


def parse_path(path: str) -> tuple[str, list[int]]:
    """Split a manifest's path into a file and a byte range.

    Returns:
        (file, []) for an audio file; (archive, [offset, length]) for "archive.zip:offset:length" if no file has this
        name.
    Raises:
        ValueError: the file does not exist, and the path is not of the form archive.zip:offset:length.
        OSError: the archive does not exist, or the path is a folder.
    """
    place = parse(path)
    if place.offset is not None and place.length is not None:
        if not is_url(place.file):
            _archive_status(place.file)
        return place.file, [place.offset, place.length]
    if os.path.splitext(path)[1] not in AUDIO_EXTENSIONS and not is_url(place.file):
        _check_exists(place.file)
    return place.file, []


def mmap_read(path: str, offset: int, length: int) -> bytes:
    """Read `length` bytes of a file from `offset`, without reading the bytes before."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), length=0, access=mmap.ACCESS_READ) as mapped:
        return mapped[offset : offset + length]


def read_from_stored_zip(zip_path: str, offset: int, length: int) -> bytes:
    """Read the bytes of an uncompressed member of a zip archive, given their position."""
    return mmap_read(zip_path, offset, length)


def is_npy_data(data: bytes) -> bool:
    return data[:2] == b"\x93N"


def is_sf_audio_data(data: bytes) -> bool:
    """Return whether data begins like a WAV, FLAC or Ogg file."""
    return data[:3] in (b"RIF", b"fLa", b"Ogg")
