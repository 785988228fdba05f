"""File systems by URL: what is tried again, and what errors say."""

from __future__ import annotations

import errno
import pickle
import ssl
import threading
from types import SimpleNamespace

import fsspec
import pytest

from fairseq import stores


class Failing:
    """A call that fails some times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def answer(status: int, code: str = "") -> Exception:
    """An error of botocore, as far as it matters."""
    error = OSError(errno.EIO, "an error")
    error.__cause__ = cause = RuntimeError("ClientError")
    cause.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    return error


class Clock(threading.Event):
    """Time that passes in pauses only."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.slept = 100.0, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        self.slept.append(timeout or 0.0)
        self.now += timeout or 0.0
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stores, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(stores.random, "SystemRandom", lambda: SimpleNamespace(uniform=lambda low, high: high))
    return clock


def test_what_may_pass_is_tried_again_with_growing_pauses(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    ticks: list[int] = []
    reports: list[str] = []
    cut = stores.StoreError("s3://b/k", "a body was cut short", "", True)
    package = type("SomeError", (Exception,), {"__module__": "client.errors"})("lost")  # of a store's package
    errors = [
        ConnectionError("refused"),
        answer(503, "SlowDown"),
        TimeoutError(),
        answer(429),
        cut,
        EOFError(),
        package,
    ]
    call = Failing(*errors, answer(500))
    done = stores.retried(call, "s3://b/k", None, lambda: ticks.append(1), reports.append, clock)
    assert done == "done" and call.calls == 9
    assert sum(clock.slept) == 0.25 + 0.5 + 1 + 2 + 4 + 8 + 10 + 10
    assert max(clock.slept) == 1.0 and len(ticks) == len(clock.slept)
    assert len(reports) == 8 and reports[1] == "the store is busy or failing (status 503, SlowDown), try 3"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2  # away; it answers again
    began = clock.now
    said = (
        r"s3://b/k: \d+ tries in 60 seconds failed.*: cannot reach the store \(refused\)\. Check the network.*AWS_ENDP"
    )
    with pytest.raises(stores.StoreError, match=said) as raised:
        stores.retried(Failing(*[ConnectionError("refused")] * 99), "s3://b/k", 60, cancelled=clock)
    assert clock.now - began == pytest.approx(60, abs=0.1)  # patience is not exceeded
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    call = Failing(ConnectionError())
    with pytest.raises(stores.StoreError):
        stores.retried(call, "s3://b/k", 0)
    assert call.calls == 1


def test_a_long_call_that_fails_is_tried_again(clock: Clock) -> None:
    """Patience begins with the first failure: an upload may take longer than that."""

    def upload() -> str:
        clock.now += 1000.0
        return call()

    call = Failing(ConnectionError())
    assert stores.retried(upload, "s3://b/k", cancelled=clock) == "done"


def test_cancelled() -> None:
    cancelled = threading.Event()
    call = Failing(*[ConnectionError()] * 9)
    with pytest.raises(stores.Cancelled):
        stores.retried(call, "s3://b/k", report=lambda text: cancelled.set(), cancelled=cancelled)
    assert call.calls == 1


class HttpError(Exception):
    """An error of aiohttp, as far as it matters."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__("the store's text")
        self.status, self.headers, self.request_info = status, headers, "GET"


def test_a_busy_store_says_how_long_to_wait(clock: Clock) -> None:
    busy = answer(503, "SlowDown")
    busy.__cause__.response["ResponseMetadata"]["HTTPHeaders"] = {"retry-after": "7"}  # type: ignore[union-attr]
    broken = type("PayloadError", (Exception,), {"code": 400})("a body was cut short")  # aiohttp: not an answer
    assert stores.retried(Failing(busy, broken), "s3://b/k", cancelled=clock) == "done"
    assert sum(clock.slept) == 7 + 0.5
    for headers, seconds in (({"Retry-After": "9"}, 9), ({"retry-after": "9999"}, 120)):
        clock.slept.clear()
        stores.retried(Failing(HttpError(429, headers)), "s3://b/k", cancelled=clock)
        assert sum(clock.slept) == seconds
    of_requests = type("Error", (Exception,), {})("x")
    of_requests.response = SimpleNamespace(status_code=503, headers={"Retry-After": "3"})  # type: ignore[attr-defined]
    clock.slept.clear()
    stores.retried(Failing(of_requests), "s3://b/k", cancelled=clock)
    assert sum(clock.slept) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answer(403, "InvalidAccessKeyId"), "access denied (status 403, InvalidAccessKeyId). Check the store's cred"),
        (PermissionError("no"), "access denied (no). Check the store's credentials and permissions (AWS_PROFILE, or"),
        (
            answer(404, "NoSuchBucket"),
            "the object or bucket does not exist (status 404, NoSuchBucket). Check the names",
        ),
        (FileNotFoundError("k"), "the object or bucket does not exist (status 404)."),
        (answer(400, "InvalidRequest"), "the store refused (status 400, InvalidRequest). Check the URL and"),
        (HttpError(403, {}), "access denied (status 403, the store's text). Check the store's credentials"),
        (IsADirectoryError("k"), "the store refused (k). Check the URL"),
        (type("ParamValidationError", (Exception,), {})("no such bucket name"), "the store refused (no such bucket na"),
        (ssl.SSLCertVerificationError("self-signed"), "certificate is not valid here ("),
        (type("NoCredentialsError", (Exception,), {})("none found"), "no valid credentials (none found). Check"),
    ],
)
def test_a_refusal_is_one_error_at_once(error: Exception, said: str) -> None:
    call = Failing(error)
    with pytest.raises(stores.StoreError) as raised:
        stores.retried(call, "s3://b/k")
    assert said in str(raised.value) and str(raised.value).startswith("s3://b/k: ") and call.calls == 1
    assert isinstance(raised.value, FileNotFoundError) is (raised.value.status == 404)


def test_errors_that_are_not_of_the_store_are_unchanged() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (full, KeyError("ours")):
        call = Failing(error)
        with pytest.raises(type(error)) as raised:
            stores.retried(call, "s3://b/k")
        assert raised.value is error and call.calls == 1


def test_an_unknown_protocol_and_a_missing_package_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"abc://x: cannot open abc:// .*Use a protocol that fsspec knows"):
        stores.opened("abc://x")

    def without_the_package(*arguments: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", without_the_package)
    with pytest.raises(ValueError, match=r"opens s3:// is not installed. Install it: pip install 's3fs>="):
        stores.opened("s3://b/k")


def test_urls() -> None:
    for url in ("s3://b/k", "http://h/x", "memory://a", "simplecache::s3://b/k", "file:///a", "abfs+x.y://c"):
        assert stores.is_url(url)
    for path in ("/a/b", "a/b", "a:/b", "://a", "", "a.tar:1:2", "1a://b", "/x://y"):
        assert not stores.is_url(path)


def test_joined() -> None:
    assert stores.joined("/disk1", "a/b.flac") == "/disk1/a/b.flac"
    assert stores.joined("/disk1/", "/disk2/b.flac") == "/disk2/b.flac"
    assert stores.joined("/disk1", "s3://bucket/b.flac") == "s3://bucket/b.flac"
    assert stores.joined("s3://bucket/corpus", "a.tar:1:2") == "s3://bucket/corpus/a.tar:1:2"
    assert stores.joined("s3://bucket/corpus/", "a.flac") == "s3://bucket/corpus/a.flac"
    assert stores.joined("s3://bucket/corpus", "/disk2/b.flac") == "/disk2/b.flac"
    assert stores.joined("", "a.flac") == "a.flac"


def test_an_address_that_is_not_a_url_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "store.example.org:9000")
    with pytest.raises(ValueError, match=r"s3://b/k: AWS_ENDPOINT_URL='store.example.org:9000' is not a URL. Write it"):
        stores.opened("s3://b/k")
