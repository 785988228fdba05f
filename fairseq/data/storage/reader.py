"""Audio in object stores: fetched ahead of its use, several ranges at a time, and kept in a local cache."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar, cast

import numpy as np

from fairseq.data.audio.places import Place, parse
from fairseq.data.storage import stores
from fairseq.data.storage.answers import CONNECTIONS, Fetched, Stamp, StoreError
from fairseq.data.storage.cache import Cache
from fairseq.distributed import progress, signals, watchdog
from fairseq.stores import is_url

if TYPE_CHECKING:
    from fairseq.data.storage.ranges import Buffer

T = TypeVar("T")

_AT_ONCE = 16 << 20  # bytes: longer audio is read in blocks, as the decoder needs them
_BLOCK = 2 << 20  # bytes; also those of the first request to an object of unknown size
_EXPECTED = 64 << 20  # bytes that a process fetches for batches that it has not begun
_SLOTS = 1 << 20  # objects whose versions a run remembers; each takes 16 bytes, once it is read
_PROBES = 64


class Versions:
    """The versions of the objects that a run has read, in memory that forked workers share.

    A hash table of URLs and versions, both as hashes. Two processes that write at once may lose an object; then its
    next reader records it again.
    """

    def __init__(self) -> None:
        self._table = np.frombuffer(mmap.mmap(-1, _SLOTS * 16), dtype=np.uint64).reshape(_SLOTS, 2)

    def _slot(self, url: str) -> tuple[int, int]:
        """Return the slot of an object, or the empty one that it may take; -1 if none is left."""
        key = _hash(url)
        for probe in range(_PROBES):
            slot = (key + probe) % _SLOTS
            if int(self._table[slot, 0]) in (0, key):
                return slot, key
        return -1, key

    def known(self, url: str) -> int:
        """Return the hash of the version that was read; 0 if none was."""
        slot, key = self._slot(url)
        return int(self._table[slot, 1]) if slot >= 0 and int(self._table[slot, 0]) == key else 0

    def check(self, url: str, stamp: Stamp) -> None:
        """Record an object's version, or compare it with the recorded one.

        Raises:
            StoreError: the object was replaced.
        """
        slot, key = self._slot(url)
        version = _hash(*map(str, stamp))
        if slot < 0:
            return
        if int(self._table[slot, 0]) != key:
            self._table[slot, 1] = version  # before the key, which says that the slot is taken
            self._table[slot, 0] = key
        elif int(self._table[slot, 1]) not in (0, version):
            size = "" if stamp.size is None else f" and has {stamp.size:,} bytes"
            raise StoreError(
                f"{url} was replaced during the run: its ETag is now {stamp.tag}{size}. A run must read the same data "
                "from beginning to end. Put the object back, or start a new run if the new data are meant."
            )


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b("\n".join(parts).encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class Remote(NamedTuple):
    """Audio in a store, at least its beginning."""

    url: str
    begin: int  # offset in the object, bytes
    size: int  # bytes
    stamp: Stamp
    start: bytes  # the first bytes; all of them unless it is long


class _Asked(NamedTuple):
    """Audio that was asked for."""

    future: Future[Remote]
    cancelled: threading.Event  # set: nobody waits for it any more
    size: int  # bytes that it takes, about


class Reader:
    """Reads ranges of objects, through the cache if there is one. Forked processes inherit it.

    Args:
        cache: where ranges are kept on this machine.
    """

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache
        self.versions = Versions()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._waiting: dict[str, str] = {}  # URL -> why a request is made again
        self._ahead: dict[str, _Asked] = {}  # of the batch in work
        self._expected: dict[str, _Asked] = {}  # of batches that follow

    # -- ranges --------------------------------------------------------------------------------------------------------

    def piece(self, url: str, begin: int, end: int, cancelled: threading.Event) -> Fetched:
        """Return bytes `begin` to `end` of an object, or fewer if it ends before.

        Raises:
            StoreError: the object cannot be read, or was replaced during the run.
        """

        def ask(request: Callable[[], T]) -> T:
            try:
                return stores.reliably(request, url, cancelled, lambda text: self._waiting.update({url: text}))
            finally:
                self._waiting.pop(url, None)

        kept = None if self.cache is None else self.cache.get(url, begin, end)
        if kept is not None:
            if not self.versions.known(url):
                self.versions.check(url, ask(lambda: stores.head(url)))
            if self.versions.known(url) == _hash(*map(str, kept.stamp)):
                return kept
        fetched = ask(lambda: stores.get(url, begin, end))
        self.versions.check(url, fetched.stamp)
        if self.cache is not None:
            self.cache.put(url, begin, end, fetched)
        return fetched

    def fetch(self, place: Place, cancelled: threading.Event) -> Remote:
        """Read the audio of a place; if it is long, only its beginning."""
        url, begin = place.file, place.offset or 0
        wanted = _BLOCK if place.length is None else place.length
        if place.length is not None and place.length > _AT_ONCE:
            wanted = _BLOCK
        first = self.piece(url, begin, begin + max(1, wanted), cancelled)
        total = first.stamp.size
        if place.length is not None:
            return Remote(url, begin, place.length, first.stamp, first.data[: place.length])
        if total is None:  # the store does not say, so that a first request that is not full is all
            total = len(first.data)
            if total == wanted:
                raise StoreError(f"cannot read {url}: its store does not say how long the object is. Pack the audio.")
        if len(first.data) < total <= _AT_ONCE:
            rest = self.piece(url, begin + len(first.data), total, cancelled)
            return Remote(url, 0, total, first.stamp, first.data + rest.data)
        return Remote(url, 0, total, first.stamp, first.data)

    # -- ahead of their use --------------------------------------------------------------------------------------------

    def _ask(self, place: Place) -> _Asked:
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = os.getpid(), ThreadPoolExecutor(CONNECTIONS, "reads from a store")
        cancelled = threading.Event()
        return _Asked(self._pool[1].submit(self.fetch, place, cancelled), cancelled, _memory(place))

    @contextmanager
    def ahead(self, places: Iterable[str]) -> Iterator[None]:
        """Fetch these places concurrently; within the block, `open` waits for them."""
        ahead: dict[str, _Asked] = {}
        for text in places:
            if is_url(text) and text not in ahead:
                ahead[text] = self._expected.pop(text, None) or self._ask(parse(text))
        before, self._ahead = self._ahead, ahead
        try:
            yield
        finally:
            self._ahead = before
            for asked in ahead.values():
                asked.cancelled.set()
                asked.future.cancel()

    def expect(self, places: Iterable[str]) -> None:
        """Begin to fetch places that a later `ahead` will name, as long as the limit on memory allows."""
        total = sum(asked.size for asked in self._expected.values())
        for text in places:
            if is_url(text) and text not in self._expected and text not in self._ahead:
                place = parse(text)
                total += _memory(place)
                if total > _EXPECTED:
                    return
                self._expected[text] = self._ask(place)

    def open(self, text: str, place: Place) -> Remote:
        """Return the audio of a place.

        Raises:
            StoreError: see `piece`.
        """
        if text in self._ahead:
            return self._wait(self._ahead[text].future)
        asked = self._ask(place)
        try:
            return self._wait(asked.future)
        finally:
            asked.cancelled.set()

    def block(self, remote: Remote, begin: int, end: int) -> bytes:
        """Return bytes of long audio."""
        cancelled = threading.Event()
        try:
            return self.piece(remote.url, remote.begin + begin, remote.begin + end, cancelled).data
        finally:
            cancelled.set()

    def _wait(self, future: Future[Remote]) -> Remote:
        """Wait for a range. While its store fails, this process still makes progress: it waits on purpose."""
        if future.done():
            return future.result()
        began = time.monotonic()
        while not wait([future], timeout=1.0).done:
            if threading.current_thread() is threading.main_thread():
                signals.check_wait()
                watchdog.check_wait()
                if waiting := dict(self._waiting):
                    other, why = next(iter(waiting.items()))
                    progress.reading(f"{other}: {why}; {time.monotonic() - began:.0f} s")
        return future.result()


def _memory(place: Place) -> int:
    """Return the bytes that the audio of a place takes; those of an object whose size is not known are a guess."""
    return _BLOCK if place.length is None or place.length > _AT_ONCE else place.length


class Blocks:
    """Long audio in a store, of which only the blocks that are needed are read.

    libsndfile reads through it with callbacks, which must not raise: after an error the file ends, and `failures` has
    the error.
    """

    def __init__(self, reader: Reader, remote: Remote, failures: list[StoreError]) -> None:
        self._reader, self._remote, self._failures = reader, remote, failures
        self._block, self._at, self._place = remote.start, 0, 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._remote.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def _here(self) -> memoryview:
        """Return bytes from the current position to the end of a block."""
        if not self._at <= self._place < self._at + len(self._block):
            begin = self._place // _BLOCK * _BLOCK
            self._block = self._reader.block(self._remote, begin, min(begin + _BLOCK, self._remote.size))
            self._at = begin
        return memoryview(self._block)[self._place - self._at :]

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer from the current position; return the number of bytes read."""
        view, count = memoryview(buffer).cast("B"), 0
        try:
            while count < len(view) and self._place < self._remote.size:
                part = self._here()[: len(view) - count]
                view[count : count + len(part)] = part
                count += len(part)
                self._place += len(part)
        except StoreError as error:
            self._failures.append(error)
        return count

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; -1: all that are left."""
        left = max(0, self._remote.size - self._place)
        data = bytearray(left if size < 0 else min(size, left))
        return bytes(data[: self.readinto(data)])

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: there is nothing to close."""


def open_remote(reader: Reader, remote: Remote, failures: list[StoreError]) -> BinaryIO:
    """Open fetched audio as a binary file; errors of later requests are added to `failures`."""
    if len(remote.start) == remote.size:
        return io.BytesIO(remote.start)
    return cast(BinaryIO, Blocks(reader, remote, failures))


# -- of this process ---------------------------------------------------------------------------------------------------


class CacheOptions(NamedTuple):
    """The cache of a run."""

    folder: str | None = None  # None: no cache
    gigabytes: float = 10.0


_readers: dict[CacheOptions, Reader] = {}
_reader: Reader | None = None  # the one that is in use


def configure(options: CacheOptions) -> None:
    """Set this process's cache, for its forks too.

    Raises:
        ValueError: the folder cannot be written.
    """
    global _reader
    if options not in _readers:
        cache = None if options.folder is None else Cache(options.folder, int(options.gigabytes * 1e9))
        _readers[options] = Reader(cache)
    _reader = _readers[options]


def reader() -> Reader:
    """Return this process's reader."""
    if _reader is None:
        configure(CacheOptions())
    assert _reader is not None
    return _reader
