"""Stores by URL, such as `s3://bucket/key`, through fsspec: opened per process, tried again, and clear errors.

Credentials and addresses come from each store's own conventions (for S3: AWS_PROFILE, AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL ...), never from this package's config.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from fairseq.installed import advice

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0  # seconds between two tries; pauses double
LONGEST_ASKED = 120.0  # seconds: a longer pause that a store asks for is cut to this
PATIENCE = 180.0  # seconds from the first failure to the error
REPORTED_AFTER = 5.0  # seconds of failures before they are logged
# fsspec's chains too, such as simplecache::s3://bucket/key
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
_WEB_ADDRESS = re.compile(r"https?://[^/\s]", re.IGNORECASE)
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # the extra of this package that opens a protocol
_AGAIN = (408, 409, 425, 429)  # statuses from 300 to 499 with which a store asks for another try
_DENIED = (401, 403)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG)  # of the disk, not of the store
# in names of exceptions
_NO_CREDENTIALS = re.compile(r"Credential|ProfileNotFound|RefreshError|SSOError|TokenRetrieval")
_WRONG_SETTINGS = re.compile(r"ParamValidation|Config|Region|InvalidURL|Unknown|Unsupported")
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
        self.url, self.text, self.check, self.is_transient, self.status = url, text, check, is_transient, status

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.url, self.text, self.check, self.is_transient, self.status)


class MissingObject(StoreError, FileNotFoundError):
    """The store has no object, or no bucket, of this name."""


class Cancelled(Exception):
    """Nobody waits for this call any more."""


def is_url(text: str) -> bool:
    """Return whether this is a URL rather than a path of the local file system."""
    return "://" in text and _URL.match(text) is not None


def joined(root: str, name: str) -> str:
    """Return a name below a folder or URL; an absolute path or a URL is returned as it is."""
    if is_url(name) or os.path.isabs(name):
        return name
    if is_url(root):
        return f"{root.rstrip('/')}/{name}"
    return os.path.join(root, name)


def protocol_of(url: str) -> str:
    """Return the protocol of a URL in lower case; of a chain, that of the store."""
    return url.partition("://")[0].rpartition("::")[2].lower()


# never dropped: in a fork, the end of a parent's S3 client would be run in the wrong event loop
_file_systems: dict[int, AbstractFileSystem] = {}


def opened(url: str, **options: object) -> tuple[AbstractFileSystem, str]:
    """Open the file system of a URL. fsspec keeps one for each process: async clients do not survive a fork.

    Listings of earlier calls are forgotten: other machines write to a store.

    Args:
        options: of fsspec's file system, beside the store's own conventions.
    Returns:
        the file system, and the URL's path in it.
    Raises:
        ValueError: the protocol is unknown, its package is not installed, or its settings are wrong; says what to do.
    """
    import fsspec

    protocol = protocol_of(url)
    if protocol in _EXTRAS:
        _check_address(url)
    try:
        fs, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        what = advice(extra) if extra is not None else _first_line(error)
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
    _file_systems[id(fs)] = fs
    return fs, str(path)


def _check_address(url: str) -> None:
    """Raise ValueError if the address of S3 in the environment is not a URL; a client's own error does not name it."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        address = os.environ.get(name, "")
        if address and not _WEB_ADDRESS.match(address):
            raise ValueError(f"{url}: {name}={address!r} is not a URL. Write it like https://store.example.org:9000.")


# -- retries -----------------------------------------------------------------------------------------------------------


def retried(
    call: Callable[[], T],
    url: str,
    patience: float | None = None,
    on_pause: Callable[[], None] | None = None,
    report: Callable[[str], None] | None = None,
    cancelled: threading.Event | None = None,
) -> T:
    """Return the result of `call`, and try again with growing pauses while the store does not answer or is busy.

    Args:
        call: may run several times.
        url: named in errors.
        patience: seconds from the first failure after which the last error is raised; None: PATIENCE. 0: one try.
        on_pause: called before each pause, and at least every second of it.
        report: called with what is waited for, before each pause.
        cancelled: ends pauses and tries when it is set.
    Raises:
        StoreError: the store refused the call, or `patience` is over; names URL, status and what to check.
        OSError: the local disk failed.
        Cancelled: `cancelled` is set.
    """
    patience = PATIENCE if patience is None else patience
    cancelled = threading.Event() if cancelled is None else cancelled
    began, tries, is_logged = 0.0, 0, False
    while not cancelled.is_set():
        try:
            result = call()
        except Exception as error:  # each store's package has its own errors; `explained` sorts them
            found, now = explained(error, url), time.monotonic()
            if found is None:
                raise
            began, tries = began if tries else now, tries + 1
            if not isinstance(found, StoreError) or not found.is_transient:
                raise found from error
            if now - began >= patience:
                raise _after(found, tries, now - began) from error
            if now - began > REPORTED_AFTER and not is_logged:
                is_logged = True
                logger.warning(f"{found} Trying again for up to {patience:.0f} seconds.")
            asked = _asked_pause(error)
        else:
            if is_logged:
                logger.warning(f"{url}: the store answers again, after {tries} failures")
            return result
        if report is not None:
            report(f"{found.text}, try {tries + 1}")
        # jitter, so that processes do not come back at the same moment; forks share the state of other generators
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(tries - 1, 10)) * random.SystemRandom().uniform(0.5, 1.0)
        end = min(now + max(pause, asked), max(began + patience, now + 0.05))
        while (left := end - time.monotonic()) > 0 and not cancelled.is_set():
            if on_pause is not None:
                on_pause()
            cancelled.wait(min(1.0, left))
    raise Cancelled


def _after(found: StoreError, tries: int, seconds: float) -> StoreError:
    if tries == 1:
        return found
    text = f"{tries} tries in {seconds:.0f} seconds failed, the last one with: {found.text}"
    return StoreError(found.url, text, found.check, True, found.status)


# -- errors ------------------------------------------------------------------------------------------------------------


def explained(error: Exception, url: str) -> OSError | None:
    """Sort an error of a store's package.

    Returns:
        a StoreError; the error itself if the local disk failed; None if it is not about a store, but a bug.
    """
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, StoreError) or (isinstance(error, OSError) and error.errno in _LOCAL):
        return error
    if package == "fairseq":
        return None
    status, code = status_of(error), _code(error)
    name, names = type(error).__name__, " ".join(type(part).__name__ for part in _chain(error))
    said = f"status {status}, {code or _first_line(error)}" if status else _first_line(error)

    def refused(text: str, hint: str) -> StoreError:
        return StoreError(url, text, _hint(hint, protocol_of(url)), False, status)

    def may_pass(text: str, hint: str) -> StoreError:
        return StoreError(url, text, _hint(hint, protocol_of(url)), True, status)

    if _NO_CREDENTIALS.search(names):
        return refused(f"no valid credentials ({_first_line(error)})", "credentials")
    if isinstance(error, FileNotFoundError) or status == 404:
        what = f"the object or bucket does not exist (status 404{f', {code}' if code else ''})"
        return MissingObject(url, what, _hint("missing", protocol_of(url)), False, 404)
    if isinstance(error, PermissionError) or status in _DENIED:
        return refused(f"access denied ({said})", "credentials")
    if status is not None and (not 300 <= status < 500 or status in _AGAIN):
        return may_pass(f"the store is busy or failing ({said})", "busy")
    if re.search("Certificate|CertVerification", names) or any(
        "CERTIFICATE_VERIFY_FAILED" in str(part) for part in _chain(error)
    ):
        return refused(f"the store's certificate is not valid here ({said})", "certificate")
    folders = isinstance(error, (IsADirectoryError, NotADirectoryError))
    if status is not None or folders or _WRONG_SETTINGS.search(name):
        return refused(f"the store refused ({said})", "refused")
    if isinstance(error, (ConnectionError, TimeoutError, EOFError)) or _NETWORK.search(names):
        return may_pass(f"cannot reach the store ({said})", "unreachable")
    if isinstance(error, OSError) or package != "builtins":
        return may_pass(f"the store failed ({said})", "busy")
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


def status_of(error: BaseException) -> int | None:
    """Return the status of the store's answer, as in HTTP; None if there was no answer."""
    for part in _chain(error):
        value: object = _response(part).get("ResponseMetadata", {}).get("HTTPStatusCode")
        if hasattr(part, "request_info"):  # aiohttp; its errors of broken bodies have a number too, always 400
            value = getattr(part, "status", None)
        elif type(part).__module__.partition(".")[0] in ("gcsfs", "google", "azure"):
            value = getattr(part, "code", None) or getattr(part, "status_code", None)
        elif value is None:  # requests
            value = getattr(getattr(part, "response", None), "status_code", None)
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return _ERRNOS.get(cast(OSError, error).errno or 0) if isinstance(error, OSError) else None


def _asked_pause(error: BaseException) -> float:
    """Return the seconds for which a busy store asks callers to wait (Retry-After); 0 if it does not."""
    for part in _chain(error):
        headers = _response(part).get("ResponseMetadata", {}).get("HTTPHeaders") or getattr(part, "headers", None)
        headers = headers or getattr(getattr(part, "response", None), "headers", None)
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
        "certificate": "Check the store's address and certificate" + (" (AWS_CA_BUNDLE)." if s3 else "."),
        "busy": "Check the store's state and its limits on requests and space.",
        "refused": "Check the URL and the store's settings"
        + (" (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION)." if s3 else "."),
    }[kind]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".") or type(error).__name__
