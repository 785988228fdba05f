"""Byte ranges of objects in a store, through fsspec, with retries."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from fairseq import stores
from fairseq.data.storage import s3
from fairseq.data.storage.answers import Fetched, Stamp, StoreError, checked

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

PATIENCE = 600.0  # seconds from the first failure of a request to the error
# what tells the versions of an object apart, in the listings of fsspec's file systems
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "created", "updated")
_REMEMBERED = 65_536  # objects whose listing a process keeps


def reliably(request: Callable[[], T], url: str, cancelled: threading.Event, report: Callable[[str], None]) -> T:
    """Make a request until it succeeds; arguments as for `fairseq.stores.retried`.

    Raises:
        StoreError: the request cannot succeed, or has failed for ten minutes.
        Cancelled: `cancelled` is set.
    """
    try:
        return stores.retried(request, url, PATIENCE, report=report, cancelled=cancelled)
    except stores.MissingObject as error:
        raise StoreError(f"cannot read {error} Check the root (line 1) and the paths of the manifest, too.") from error
    except stores.StoreError as error:
        todo = " Rerun the command to continue." if error.is_transient else ""
        raise StoreError(f"cannot read {error}{todo}") from error
    except OSError as error:  # of a local disk, as in simplecache::s3://bucket/key
        raise StoreError(f"cannot read {url}: {error}. Check the local disk.") from error


# -- one request -------------------------------------------------------------------------------------------------------


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return a file system for reading only, and the object's path in it.

    Raises:
        StoreError: it cannot be opened.
    """
    try:
        return s3.file_system(url) if s3.is_s3(url) else stores.opened(url)
    except ValueError as error:
        raise StoreError(f"cannot read {error}") from error


# of objects in file systems whose reads do not return a version; by process, so that a new worker asks again
_stamps: dict[tuple[int, str], Stamp] = {}


def get(url: str, begin: int, end: int) -> Fetched:
    """Read bytes `begin` to `end` of an object, or fewer if it ends before; one request, without retries."""
    if s3.is_s3(url):
        fetched = s3.get(url, begin, end)
        return Fetched(b"", head(url)) if fetched is None else fetched
    fs, path = file_system(url)
    stamp = _stamps.get((os.getpid(), url))
    if stamp is None:
        if len(_stamps) >= _REMEMBERED:
            _stamps.clear()
        stamp = _stamps[os.getpid(), url] = head(url)
    if stamp.size is not None and begin >= stamp.size:
        return Fetched(b"", stamp)
    data = cast(bytes, fs.cat_file(path, start=begin, end=end if stamp.size is None else min(end, stamp.size)))
    if len(data) == stamp.size and begin:  # a web server without byte ranges sends the whole file
        data = data[begin:end]
    return checked(url, data, stamp, begin, end)


def head(url: str) -> Stamp:
    """Ask for the version of an object; one request, without retries."""
    fs, path = file_system(url)
    fs.invalidate_cache()
    info = cast("Mapping[str, object]", fs.info(path))
    if info.get("type") == "directory":
        raise stores.StoreError(url, "it is a folder, not an object", "Check the URL.", False)
    size = info.get("size")
    tag = " ".join(str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None)
    return Stamp(str(info["ETag"]) if "ETag" in info else tag, int(size) if isinstance(size, int) else None)
