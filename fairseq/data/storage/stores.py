"""Byte ranges of objects in a store, through fsspec, with retries."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from fairseq import stores
from fairseq.dataclass.base import RunError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from s3fs import S3FileSystem

T = TypeVar("T")

CONNECTIONS = 16  # concurrent requests of a process
PATIENCE = 600.0  # seconds from the first failure of a request to the error
_NO_RANGE = 416  # status: the object ends before the range begins
# what tells the versions of an object apart, in the listings of fsspec's file systems
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "created", "updated")
_REMEMBERED = 65_536  # objects whose listing a process keeps


class StoreError(RunError):
    """An object cannot be read, which ends a run; the message names its URL, the store's answer and what to check."""

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return StoreError, (self.problems[0],)


class Stamp(NamedTuple):
    """The version of an object."""

    tag: str  # its ETag, or what the file system has instead
    size: int | None  # bytes; None: the store does not say


class Fetched(NamedTuple):
    """Bytes of an object, and the version that they are from."""

    data: bytes
    stamp: Stamp


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
    options: dict[str, object] = {}
    is_s3 = stores.protocol_of(url) in ("s3", "s3a") and "::" not in url.partition("://")[0]
    if is_s3:
        from fsspec.config import conf

        own = cast("dict[str, object]", conf.get("s3", {}).get("config_kwargs", {}))
        options["config_kwargs"] = {
            # retries are made here: the client's own would be invisible, and multiply
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 2 * CONNECTIONS,
            # these two would take a fifth of the client's time for a request; lengths and versions are checked here
            "response_checksum_validation": "when_required",
            "user_agent": "fairseq-hpu",
            **own,
        }
    try:
        fs, path = stores.opened(url, **options)
    except ValueError as error:
        raise StoreError(f"cannot read {error}") from error
    if is_s3:
        cast("S3FileSystem", fs).retries = 1
    return fs, path


# of objects in file systems whose reads do not return a version; by process, so that a new worker asks again
_stamps: dict[tuple[int, str], Stamp] = {}


def get(url: str, begin: int, end: int) -> Fetched:
    """Read bytes `begin` to `end` of an object, or fewer if it ends before; one request, without retries."""
    fs, path = file_system(url)
    if "s3" in fs.protocol:
        return _get_from_s3(cast("S3FileSystem", fs), url, path, begin, end)
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
    return _checked(url, data, stamp, begin, end)


def _get_from_s3(fs: S3FileSystem, url: str, path: str, begin: int, end: int) -> Fetched:
    """Read with a single request, whose answer has the ETag and the size too."""
    from fsspec.asyn import sync

    bucket, key, version = fs.split_path(path)
    options = {"VersionId": version} if version else {}

    async def read() -> Fetched:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={begin}-{end - 1}", **options)
        async with answer["Body"] as body:
            data = await body.read()
        total = str(answer.get("ContentRange", "")).rpartition("/")[2]
        size = int(total) if total.isdecimal() else int(answer["ContentLength"])
        return _checked(url, data, Stamp(str(answer.get("ETag", "")), size), begin, end)

    try:
        return cast(Fetched, sync(fs.loop, read))
    except OSError as error:
        if stores.status_of(error) != _NO_RANGE:
            raise
        return Fetched(b"", head(url))


def _checked(url: str, data: bytes, stamp: Stamp, begin: int, end: int) -> Fetched:
    wanted = end - begin if stamp.size is None else max(0, min(end, stamp.size) - begin)
    if len(data) != wanted and (stamp.size is not None or len(data) > wanted):
        text = f"{len(data):,} bytes arrived instead of {wanted:,}"
        raise stores.StoreError(url, text, "Check the network and the store.", True)
    return Fetched(data, stamp)


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
