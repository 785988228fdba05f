"""File systems by URL, such as `s3://bucket/key`, through fsspec: opened per process, tried again, and clear errors.

Credentials and addresses come from each store's own conventions (for S3: AWS_PROFILE, AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL ...), never from this package's config.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from fairseq.installed import advice

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds between two tries; pauses double
LONGEST_ASKED = 60.0  # seconds: a longer pause that a store asks for is cut to this
PATIENCE = 180.0  # seconds for which a call is tried again
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # the extra of this package that opens a protocol
_AGAIN = (408, 409, 425, 429)  # statuses below 500 with which a store asks for another try
_DENIED = (401, 403)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG)  # of the disk, not of the store
_NO_CREDENTIALS = re.compile(r"Credential|ProfileNotFound|RefreshError|SSOError|TokenRetrieval")
_NETWORK = re.compile(r"Timeout|Connection|HTTPClientError|IncompleteRead|Payload|ServerDisconnected|ResponseParser")
_ERRNOS = {errno.EBUSY: 503, errno.EREMOTEIO: 500}  # how s3fs translates these statuses, if nothing else is known


class StoreError(OSError):
    """A store refused a call, or could not be reached.

    Args:
        url: what the call was about.
        text: what happened, with the status if the store sent one.
        check: what the user should look at, as a sentence.
        is_transient: trying again later may help.
        status: of the store's answer, as in HTTP; None without an answer.
    """

    def __init__(self, url: str, text: str, check: str, is_transient: bool, status: int | None = None) -> None:
        super().__init__(f"{url}: {text}. {check}")
        self.url, self.is_transient, self.status = url, is_transient, status


class MissingObject(StoreError, FileNotFoundError):
    """The store has no object, or no bucket, of this name."""


def is_url(text: str) -> bool:
    """Whether this is a URL rather than a path of the local file system."""
    return _URL.match(text) is not None


def joined(url: str, name: str) -> str:
    """Return the URL of a name below a URL."""
    return f"{url.rstrip('/')}/{name}"


def filesystem(url: str) -> AbstractFileSystem:
    """Open the file system of a URL. fsspec keeps one for each process: async clients do not survive a fork.

    Listings of earlier calls are forgotten: other machines write to a store.

    Raises:
        ValueError: the protocol is unknown, its package is not installed, or its settings are wrong; says what to do.
    """
    import fsspec

    protocol = url.partition("://")[0].lower()
    try:
        fs, _ = fsspec.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        what = advice(extra) if extra is not None else str(error).splitlines()[0]
        raise ValueError(f"{url}: the package that opens {protocol}:// is not installed. Install it: {what}") from error
    except ValueError as error:
        raise ValueError(
            f"{url}: cannot open {protocol}:// ({error}). Use a protocol that fsspec knows, such as s3://bucket/folder."
        ) from error
    except Exception as error:  # each store's package has its own errors for wrong settings
        raise ValueError(f"{url}: {_first_line(error)}. {_hint('credentials', protocol)}") from error
    if protocol in _EXTRAS:
        for name in ("botocore", "aiobotocore"):  # each process would log where it found its settings
            logging.getLogger(name).setLevel(logging.WARNING)
    fs.invalidate_cache()
    return fs


def path_in(fs: AbstractFileSystem, url: str) -> str:
    """Return the path of a URL as its file system names it."""
    return str(fs._strip_protocol(url))


def retried(
    call: Callable[[], T],
    url: str,
    patience: float | None = None,
    on_pause: Callable[[], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return the result of `call`, and try again with growing pauses while the store does not answer or is busy.

    Args:
        call: may run several times.
        url: named in errors.
        patience: seconds after which the last error is raised; None: PATIENCE. 0: one try.
        on_pause: called before each pause, and at least every second of it.
    Raises:
        StoreError: the store refused the call, or `patience` is over; names URL, status and what to check.
        OSError: the local disk failed.
    """
    until = time.monotonic() + (PATIENCE if patience is None else patience)
    pause, tries = FIRST_PAUSE, 0
    while True:
        try:
            result = call()
        except Exception as error:  # each store's package has its own errors; `explained` sorts them
            found = explained(error, url)
            if found is None:
                raise
            if not _may_pass(found) or time.monotonic() >= until:
                raise found from error
            tries, asked = tries + 1, _asked_pause(error)
            log = logger.warning if tries == 3 else logger.info  # one short failure is not worth a warning
            log(f"{found} Trying again in {max(pause, asked):.1f} seconds.")
        else:
            if tries >= 3:
                logger.warning(f"{url}: the store answers again")
            return result
        # jitter, so that many processes do not come back at the same moment
        end = time.monotonic() + max(pause * random.uniform(0.75, 1.25), asked)
        end = min(end, max(until, time.monotonic() + 0.05))
        while (left := end - time.monotonic()) > 0:
            if on_pause is not None:
                on_pause()
            sleep(min(1.0, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def _may_pass(error: OSError) -> bool:
    return isinstance(error, StoreError) and error.is_transient


def explained(error: Exception, url: str) -> OSError | None:
    """Sort an error of a store's package.

    Returns:
        a StoreError; the error itself if the local disk failed; None if it is not about a store, but a bug.
    """
    if isinstance(error, StoreError):
        return error
    if isinstance(error, OSError) and error.errno in _LOCAL:
        return error
    protocol = url.partition("://")[0].lower()
    status, code = _status(error), _code(error)
    names = " ".join(type(part).__name__ for part in _chain(error))
    said = f" (status {status}{f', {code}' if code else ''})" if status else f" ({_first_line(error)})"
    if _NO_CREDENTIALS.search(names):
        what = f"no valid credentials ({_first_line(error)})"
        return StoreError(url, what, _hint("credentials", protocol), False, status)
    if isinstance(error, FileNotFoundError) or status == 404:
        what = f"there is no such object or bucket (status 404{f', {code}' if code else ''})"
        return MissingObject(url, what, _hint("missing", protocol), False, 404)
    if isinstance(error, PermissionError) or status in _DENIED:
        return StoreError(url, f"access denied{said}", _hint("credentials", protocol), False, status)
    if status is not None and (status >= 500 or status in _AGAIN):
        return StoreError(url, f"the store is busy or failing{said}", _hint("busy", protocol), True, status)
    if status is not None:
        return StoreError(url, f"the store refused{said}", _hint("refused", protocol), False, status)
    network = isinstance(error, (ConnectionError, TimeoutError, asyncio.TimeoutError, EOFError))
    if network or _NETWORK.search(names):
        return StoreError(url, f"cannot reach the store{said}", _hint("unreachable", protocol), True)
    if isinstance(error, OSError):
        return StoreError(url, f"the store failed{said}", _hint("busy", protocol), True)
    if type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure"):
        return StoreError(url, f"the store refused{said}", _hint("refused", protocol), False)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> dict[str, dict[str, object]]:
    """Return the answer in an error of botocore."""
    found = getattr(error, "response", None)
    return found if isinstance(found, dict) else {}


def _status(error: BaseException) -> int | None:
    """Return the status of the store's answer, as in HTTP; None if there was no answer."""
    for part in _chain(error):
        value: object = _response(part).get("ResponseMetadata", {}).get("HTTPStatusCode")
        if hasattr(part, "request_info"):  # aiohttp; its errors of broken bodies have a number too, always 400
            value = getattr(part, "status", None)
        elif type(part).__module__.partition(".")[0] in ("gcsfs", "google", "azure"):
            value = getattr(part, "code", None) or getattr(part, "status_code", None)
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return _ERRNOS.get(cast(OSError, error).errno or 0) if isinstance(error, OSError) else None


def _asked_pause(error: BaseException) -> float:
    """Return the seconds for which a busy store asks callers to wait (Retry-After); 0 if it does not."""
    for part in _chain(error):
        headers = _response(part).get("ResponseMetadata", {}).get("HTTPHeaders") or getattr(part, "headers", None)
        if isinstance(headers, Mapping):
            asked = str(headers.get("retry-after") or headers.get("Retry-After") or "")
            if asked.isdecimal():
                return min(float(asked), LONGEST_ASKED)
    return 0.0


def _code(error: BaseException) -> str:
    """Return the store's own name of the error, such as NoSuchBucket."""
    for part in _chain(error):
        code = _response(part).get("Error", {}).get("Code")
        if isinstance(code, str) and not code.isdigit():
            return code
    return ""


def _hint(kind: str, protocol: str) -> str:
    s3 = protocol in _EXTRAS
    return {
        "credentials": "Check the store's credentials and permissions"
        + (" (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)." if s3 else "."),
        "missing": "Check the names of bucket and object" + (", and AWS_ENDPOINT_URL if it is set." if s3 else "."),
        "unreachable": "Check the network and the store's address" + (" (AWS_ENDPOINT_URL)." if s3 else "."),
        "busy": "Check the store's state and its limits on requests and space.",
        "refused": "Check the URL and the store's settings"
        + (" (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION)." if s3 else "."),
    }[kind]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") or type(error).__name__
