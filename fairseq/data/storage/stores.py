"""Byte ranges of objects in a store, through fsspec, with retries.

File systems are created in the process that uses them: the event loop and connections of an asynchronous client do not
survive a fork, and fsspec's cache of file systems is emptied by one.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from fairseq.dataclass.base import RunError
from fairseq.installed import advice

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from s3fs import S3FileSystem

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECTIONS = 16  # concurrent requests of a process
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0  # seconds before a retry; each pause is twice as long as the one before
_MOST_ASKED = 120.0  # seconds: a longer pause that a store asks for (Retry-After) is cut to this
_PATIENCE = 600.0  # seconds from the first failure of a request to the error
_REPORTED_AFTER = 5.0  # seconds of failures before they are logged
_TOO_MANY, _TIMEOUT, _TOO_EARLY, _NO_RANGE = 429, 408, 425, 416
# what tells the versions of an object apart, in the listings of fsspec's file systems
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "created", "updated")
# parts of names of botocore's and aiohttp's exceptions; others are lost connections
_WRONG_SETTINGS = ("ParamValidation", "Config", "Region", "InvalidURL", "Unknown", "Unsupported", "Certificate")
_REMEMBERED = 65_536  # objects whose listing a process keeps


class StoreError(RunError):
    """An object cannot be read; the message names its URL, the store's answer and what to check."""

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return StoreError, (self.problems[0],)


class Cancelled(Exception):
    """Nobody waits for this object any more."""


class Stamp(NamedTuple):
    """The version of an object."""

    tag: str  # its ETag, or what the file system has instead
    size: int | None  # bytes; None: the store does not say


class Fetched(NamedTuple):
    """Bytes of an object, and the version that they are from."""

    data: bytes
    stamp: Stamp


class _Short(Exception):
    """A body has another length than it should have."""


# -- one request -------------------------------------------------------------------------------------------------------


# never dropped: in a fork, the end of a parent's S3 client would be run in the wrong event loop
_file_systems: dict[int, AbstractFileSystem] = {}


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return fsspec's file system for a URL, created once in this process, and the object's path in it.

    Raises:
        StoreError: a package is missing, or no file system has this protocol.
    """
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    options: dict[str, object] = {}
    is_s3 = url.startswith(("s3://", "s3a://"))
    if is_s3:
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
        fs, path = url_to_fs(url, **options)
    except ImportError as error:
        todo = f"install s3fs: {advice('s3')}" if is_s3 else str(error)
        raise StoreError(f"cannot read {url}: a package is missing. To read from this store, {todo}") from error
    except ValueError as error:
        raise StoreError(f"cannot read {url}: {error}. It must be a URL of a file system that fsspec knows.") from error
    if is_s3:
        fs.retries = 1
        for name in ("botocore", "aiobotocore"):  # each worker would log where it found the credentials
            logging.getLogger(name).setLevel(logging.WARNING)
    _file_systems[id(fs)] = fs
    return fs, path


# of objects in file systems whose reads do not return a version; by process, so that a new worker asks again
_stamps: dict[tuple[int, str], Stamp] = {}


def get(url: str, begin: int, end: int) -> Fetched:
    """Read bytes `begin` to `end` of an object, or fewer if it ends before; one request, without retries."""
    fs, path = file_system(url)
    if "s3" in fs.protocol:
        return _get_from_s3(cast("S3FileSystem", fs), path, begin, end)
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
    return _checked(data, stamp, begin, end)


def _get_from_s3(fs: S3FileSystem, path: str, begin: int, end: int) -> Fetched:
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
        return _checked(data, Stamp(str(answer.get("ETag", "")), size), begin, end)

    try:
        return cast(Fetched, sync(fs.loop, read))
    except OSError as error:
        if _status(error) != _NO_RANGE:
            raise
        return Fetched(b"", head(f"s3://{path}"))  # the object ends before the range begins


def _checked(data: bytes, stamp: Stamp, begin: int, end: int) -> Fetched:
    wanted = end - begin if stamp.size is None else max(0, min(end, stamp.size) - begin)
    if len(data) != wanted and (stamp.size is not None or len(data) > wanted):
        raise _Short(f"{len(data):,} bytes arrived instead of {wanted:,}")
    return Fetched(data, stamp)


def head(url: str) -> Stamp:
    """Ask for the version of an object; one request, without retries."""
    fs, path = file_system(url)
    fs.invalidate_cache()
    info = cast("Mapping[str, object]", fs.info(path))
    if info.get("type") == "directory":
        raise FileNotFoundError(f"{url} is a folder")
    size = info.get("size")
    tag = " ".join(str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None)
    return Stamp(str(info["ETag"]) if "ETag" in info else tag, int(size) if isinstance(size, int) else None)


# -- retries -----------------------------------------------------------------------------------------------------------


class Trouble(NamedTuple):
    """A failed request."""

    status: int | None  # of HTTP
    text: str  # what happened
    lasts: bool  # another try would fail too
    pause: float  # seconds that the store asks for; 0: it does not say

    def advice(self, url: str) -> str:
        """Say what to check."""
        if self.status in (401, 403) or "credentials" in self.text.lower():
            s3 = " (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)" if "s3" in url[:3] else ""
            return f"Check the credentials{s3}, and that they may read this object."
        if self.status == 404:
            s3 = ", and AWS_ENDPOINT_URL if the store is not Amazon's" if "s3" in url[:3] else ""
            return f"Check the root (line 1) and the paths of the manifest, whether the object is there{s3}."
        if self.lasts:
            return "Check the URL and the settings of the store."
        return "Check that this machine reaches the store, and its load. Rerun the command to continue."


def reliably(action: Callable[[], T], url: str, cancelled: threading.Event, report: Callable[[str], None]) -> T:
    """Run a request until it succeeds.

    Args:
        action: makes one request.
        url: the object, for messages.
        cancelled: ends the retries when it is set.
        report: called with what is waited for before each pause, and with "" at the end.
    Raises:
        StoreError: the request cannot succeed, or has failed for ten minutes.
        Cancelled: `cancelled` is set.
    """
    began, tries, is_logged = 0.0, 0, False
    while True:
        if cancelled.is_set():
            raise Cancelled
        try:
            result = action()
        except StoreError:
            raise
        except Exception as error:  # each store's package has exceptions of its own
            trouble = _trouble(error)
            if trouble is None:
                raise
            tries += 1
            now = time.monotonic()
            began = began or now
            if trouble.lasts:
                raise StoreError(f"cannot read {url}: {trouble.text}. {trouble.advice(url)}") from error
            if now - began > _PATIENCE:
                raise StoreError(
                    f"cannot read {url}: {tries} tries in {(now - began) / 60:.0f} minutes failed, the last one with: "
                    f"{trouble.text}. {trouble.advice(url)}"
                ) from error
            if now - began > _REPORTED_AFTER and not is_logged:
                is_logged = True
                logger.warning("%s: %s. Trying again for up to %d minutes", url, trouble.text, _PATIENCE // 60)
        else:
            if is_logged:
                logger.warning("%s: read after %d tries", url, tries + 1)
            report("")
            return result
        # random, so that processes do not come back at the same time
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries - 1, 10)) * random.SystemRandom().uniform(0.5, 1.0)
        report(f"{trouble.text}, try {tries + 1}")
        cancelled.wait(max(pause, trouble.pause))


def _trouble(error: Exception) -> Trouble | None:
    """Describe a failed request; None if the error is a bug rather than a failure."""
    status, pause = _status(error), _pause_asked(error)
    text = " ".join((str(error) or type(error).__name__).split()).rstrip(".")
    text = text if status is None or str(status) in text else f"HTTP {status} ({text})"
    if isinstance(error, FileNotFoundError) and status is None:
        status, text = 404, f"not found ({text})"
    if isinstance(error, PermissionError) and status is None:
        status, text = 403, f"access denied ({text})"
    name = type(error).__name__
    if "Credential" in name or name in ("ProfileNotFound", "TokenRetrievalError"):
        return Trouble(status, f"no credentials ({text})", True, 0.0)
    if status is not None:
        lasts = 300 <= status < 500 and status not in (_TOO_MANY, _TIMEOUT, _TOO_EARLY)
        return Trouble(status, text, lasts, pause)
    if isinstance(error, (_Short, OSError, EOFError, TimeoutError)):
        lasts = isinstance(error, (IsADirectoryError, NotADirectoryError))
        return Trouble(None, text, lasts, pause)
    if type(error).__module__.partition(".")[0] in ("builtins", "fairseq"):
        return None
    lasts = any(word in name for word in _WRONG_SETTINGS) or "CERTIFICATE_VERIFY_FAILED" in text
    return Trouble(None, f"{name}: {text}", lasts, pause)


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 8:
        causes.append(cause)
    return causes


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of a failed request; None if it has none."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):  # botocore
            metadata = response.get("ResponseMetadata", {})
            code = metadata.get("HTTPStatusCode") if isinstance(metadata, Mapping) else None
        elif hasattr(cause, "request_info"):  # aiohttp; its errors of broken bodies have numbers too, all of them 400
            code = getattr(cause, "status", None)
        else:  # requests
            code = getattr(response, "status_code", None)
        if isinstance(code, int) and 100 <= code < 600:
            return code
    return None


def _pause_asked(error: BaseException) -> float:
    """Return the seconds that a store asks to wait (Retry-After); 0 if it does not say."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        headers = getattr(cause, "headers", None) or getattr(response, "headers", None)
        if isinstance(response, Mapping):
            metadata = response.get("ResponseMetadata", {})
            headers = metadata.get("HTTPHeaders") if isinstance(metadata, Mapping) else None
        if isinstance(headers, Mapping):
            asked = str(headers.get("retry-after") or headers.get("Retry-After") or "")
            if asked.isdecimal():
                return min(float(asked), _MOST_ASKED)
    return 0.0
