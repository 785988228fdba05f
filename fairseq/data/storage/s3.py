"""Byte ranges of objects in S3: each is one request, as cheap as it can be.

The first request to a bucket goes through s3fs, which follows S3's conventions for addresses, credentials and regions.
What its client finds out is used for the following ones: they are signed with botocore and sent with urllib3, and take
a third of the processor time. Whatever is not plain goes through s3fs again: a bucket behind a proxy or with its own
kind of signature, a version of an object, an answer that asks for another region, and lasting errors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

from fairseq import stores
from fairseq.data.storage.answers import CONNECTIONS, Fetched, Stamp, StoreError, checked

if TYPE_CHECKING:
    from aiobotocore.client import AioBaseClient
    from aiobotocore.session import AioSession
    from aiobotocore.signers import AioRequestSigner
    from botocore.auth import BaseSigner
    from botocore.awsrequest import AWSRequest
    from s3fs import S3FileSystem
    from urllib3 import HTTPConnectionPool

_SIGNING = "before-sign.s3.GetObject"  # botocore's event
_PLAIN_SIGNATURES = ("s3v4", "v4")
_SIGNING_CONTEXT = (("signing_name", "signing_name"), ("region", "region_name"))  # names in a request and in the event
_SIGNED_FOR = 240.0  # seconds that a signature is used; stores accept it for 15 minutes
_SIGNATURES = 4096  # objects whose signatures a process keeps
_TIMEOUT = 60.0  # seconds without a byte, as in botocore
_BUSY, _NO_RANGE = 429, 416  # statuses; the latter: the object ends before the range begins


class _Signer(NamedTuple):
    """Credentials with which requests are signed."""

    auth: BaseSigner | None  # None: requests are anonymous
    until: float  # by time.monotonic(); after it, the client is asked for new ones


class _Signature(NamedTuple):
    """The headers of requests to an object."""

    until: float  # by time.monotonic()
    headers: dict[str, str]


class _Bucket:
    """How to reach a bucket's objects. A fork can use it, too.

    Args:
        address: URL of the bucket, with a slash at the end; an object's key follows.
        headers: what the client sends with each request.
        certificates: file of certificates that the client trusts.
    """

    def __init__(self, address: str, headers: dict[str, str], signer: _Signer, certificates: str | None) -> None:
        self.signer = signer
        self._address, self._headers, self._certificates = address, headers, certificates
        self._path = urlsplit(address).path
        self._signatures: dict[str, _Signature] = {}
        self._pool: tuple[int, HTTPConnectionPool] | None = None

    def _signed(self, key: str) -> dict[str, str]:
        """Return the headers of requests to an object, whatever the range: it is not signed."""
        from botocore.awsrequest import AWSRequest

        now = time.monotonic()
        found = self._signatures.get(key)
        if found is not None and now < found.until:
            return found.headers
        request = AWSRequest("GET", self._address + key, headers=self._headers)
        if self.signer.auth is not None:
            self.signer.auth.add_auth(request)
        headers = {name: _text(value) for name, value in request.headers.items()}
        if len(self._signatures) >= _SIGNATURES:
            self._signatures.clear()
        self._signatures[key] = _Signature(now + _SIGNED_FOR, headers)
        return headers

    def _connections(self) -> HTTPConnectionPool:
        """Return the connections of this process: they do not survive a fork."""
        if self._pool is None or self._pool[0] != os.getpid():
            import urllib3

            trust = {"cert_reqs": "CERT_REQUIRED", "ca_certs": self._certificates}
            secure = trust if self._address.startswith("https:") else {}
            timeout = urllib3.Timeout(_TIMEOUT)
            pool = urllib3.connection_from_url(self._address, maxsize=CONNECTIONS, timeout=timeout, **secure)
            self._pool = os.getpid(), pool
        return self._pool[1]

    def ask(self, key: str, begin: int, end: int) -> tuple[int, Mapping[str, str], bytes]:
        """Request bytes of an object; return status, headers and body.

        Raises:
            urllib3.exceptions.HTTPError: the store cannot be reached, or the body is cut short.
        """
        headers = {**self._signed(key), "Range": f"bytes={begin}-{end - 1}"}
        answer = self._connections().urlopen(
            "GET", self._path + key, headers=headers, retries=False, redirect=False, decode_content=False
        )
        return answer.status, answer.headers, answer.data


_buckets: dict[str, _Bucket] = {}


def is_s3(url: str) -> bool:
    """Return whether this is an object in S3, and not in a chain of file systems."""
    return stores.protocol_of(url) in ("s3", "s3a") and "::" not in url.partition("://")[0]


def get(url: str, begin: int, end: int) -> Fetched | None:
    """Read bytes `begin` to `end` of an object, or fewer if it ends before; one request, without retries.

    Returns:
        None if the object ends before the range begins.
    Raises:
        StoreError: the file system cannot be opened.
        Exception: of s3fs, botocore or urllib3; `fairseq.stores.explained` sorts them.
    """
    name, _, key = url.partition("://")[2].partition("/")
    bucket = _buckets.get(name)
    if bucket is None or "?" in key or not key or bucket.signer.until < time.monotonic():
        return _get_through_s3fs(url, begin, end)
    status, headers, body = bucket.ask(_quoted(key), begin, end)
    if 200 <= status < 300:
        return _answer(url, headers, body, begin, end)
    if status == _NO_RANGE:
        return None
    if status == _BUSY or status >= 500:
        raise _failure(status, headers, body)
    _buckets.pop(name, None)  # its region or the credentials may have changed
    return _get_through_s3fs(url, begin, end)


def _answer(url: str, headers: Mapping[str, str], body: bytes, begin: int, end: int) -> Fetched:
    total = str(headers.get("content-range", "")).rpartition("/")[2]
    size = int(total) if total.isdecimal() else int(headers.get("content-length", len(body)))
    return checked(url, body, Stamp(str(headers.get("etag", "")), size), begin, end)


def _failure(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """Return the error that botocore's own client would raise."""
    from botocore.exceptions import ClientError
    from botocore.parsers import create_parser

    lower = {name.lower(): value for name, value in headers.items()}
    parsed = create_parser("rest-xml").parse({"status_code": status, "headers": lower, "body": body}, None)
    return ClientError(parsed, "GetObject")


def _quoted(key: str) -> str:
    from botocore.utils import percent_encode

    return percent_encode(key, safe="/~")


# -- through s3fs ------------------------------------------------------------------------------------------------------


def file_system(url: str) -> tuple[S3FileSystem, str]:
    """Return a file system for reading only, and the object's path in it.

    Raises:
        ValueError: it cannot be opened.
    """
    from fsspec.config import conf

    own = cast("dict[str, object]", conf.get("s3", {}).get("config_kwargs", {}))
    settings = {
        # retries are made here: the client's own would be invisible, and multiply
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": 2 * CONNECTIONS,
        # these two would take a fifth of the client's time for a request; lengths and versions are checked here
        "response_checksum_validation": "when_required",
        "user_agent": "fairseq-hpu",
        **own,
    }
    opened, path = stores.opened(url, config_kwargs=settings)
    fs = cast("S3FileSystem", opened)
    fs.retries = 1
    return fs, path


def _get_through_s3fs(url: str, begin: int, end: int) -> Fetched | None:
    """Read with the file system's client, and note how it reached the bucket."""
    from fsspec.asyn import sync

    try:
        fs, path = file_system(url)
    except ValueError as error:
        raise StoreError(f"cannot read {error}") from error
    name, key, version = fs.split_path(path)
    options = {"VersionId": version} if version else {}
    seen: list[_Sent] = []

    def note(request: AWSRequest, **about: object) -> None:
        if str(request.url).endswith("/" + _quoted(key)):
            seen.append(_Sent(request, about))

    async def read() -> Fetched:
        await fs.set_session()
        events = cast("AioBaseClient", await fs.get_s3(name)).meta.events
        events.register(_SIGNING, note)
        try:
            answer = await fs._call_s3("get_object", Bucket=name, Key=key, Range=f"bytes={begin}-{end - 1}", **options)
        finally:
            events.unregister(_SIGNING, note)
        async with answer["Body"] as body:
            data = await body.read()
        fetched = _answer(url, answer["ResponseMetadata"]["HTTPHeaders"], data, begin, end)
        if seen and not version and (bucket := await _plain(fs, key, seen[-1])) is not None:
            _buckets[name] = bucket
        return fetched

    try:
        return cast(Fetched, sync(fs.loop, read))
    except OSError as error:
        if stores.status_of(error) == _NO_RANGE:
            return None
        raise


class _Sent(NamedTuple):
    """A request of the file system's client, before it is signed."""

    request: AWSRequest
    about: Mapping[str, object]  # of botocore's event: who signs it, and how


async def _plain(fs: S3FileSystem, key: str, sent: _Sent) -> _Bucket | None:
    """Return how to reach a bucket without s3fs; None if that is not known to work."""
    from botocore import UNSIGNED
    from botocore.httpsession import get_cert_path
    from botocore.utils import get_environ_proxies

    request, about = sent
    config, url = cast("AioBaseClient", fs.s3).meta.config, str(request.url)
    verify = fs.client_kwargs.get("verify")
    if (
        about["signature_version"] not in (UNSIGNED, *_PLAIN_SIGNATURES)
        or verify is False
        or get_environ_proxies(url)
        or config.proxies
        or config.client_cert
    ):
        return None
    # headers of one request, such as its range and number, are left out
    kept = {name: value for name, value in request.headers.items() if name.lower().startswith(("x-amz-", "user-agent"))}
    headers = {name: _text(value) for name, value in kept.items()}
    trusted = verify or cast("AioSession", fs.session).get_config_variable("ca_bundle") or True
    signer = await _signer(request, about)
    return _Bucket(url.removesuffix(_quoted(key)), headers, signer, cast("str | None", get_cert_path(trusted)))


async def _signer(request: AWSRequest, about: Mapping[str, object]) -> _Signer:
    from botocore import UNSIGNED
    from botocore.credentials import RefreshableCredentials

    version, theirs = about["signature_version"], cast("AioRequestSigner", about["request_signer"])
    if version == UNSIGNED:
        return _Signer(None, float("inf"))
    context = cast("dict[str, str]", request.context.get("signing", {}))
    service, region = (
        context.get("signing_name") or about["signing_name"],
        context.get("region") or about["region_name"],
    )
    # botocore refreshes credentials 10 minutes before they end, or earlier
    auth = await theirs.get_auth_instance(service, region, version)
    credentials: object = getattr(theirs, "_credentials", None)
    lasts = credentials is not None and not isinstance(credentials, RefreshableCredentials)
    return _Signer(cast("BaseSigner", auth), float("inf") if lasts else time.monotonic() + _SIGNED_FOR)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
