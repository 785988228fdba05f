"""File systems by URL: what is tried again, and what errors say."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from fairseq import stores
from tests import loopback_s3


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


def test_what_may_pass_is_tried_again_with_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    slept: list[float] = []
    ticks: list[int] = []
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores.time, "monotonic", lambda: clock.now)
        patch.setattr(stores.random, "uniform", lambda low, high: 1.0)
        errors = [ConnectionError("refused"), answer(503, "SlowDown"), TimeoutError(), answer(429), answer(500)]
        call = Failing(*errors)
        assert stores.retried(call, "s3://b/k", on_pause=lambda: ticks.append(1), sleep=sleep) == "done"
        assert call.calls == 6
        assert sum(slept) == 0.5 + 1 + 2 + 4 + 8 and max(slept) == 1.0 and len(ticks) == len(slept)
        with pytest.raises(stores.StoreError, match=r"s3://b/k: cannot reach the store .*Check the network.*AWS_ENDP"):
            stores.retried(Failing(*[ConnectionError("refused")] * 99), "s3://b/k", patience=60, sleep=sleep)
        assert clock.now == pytest.approx(15.5 + 60, abs=0.1)  # patience is not exceeded
    assert [record.levelname for record in caplog.records].count("WARNING") == 3  # away; it answers again; away


def test_a_busy_store_says_how_long_to_wait() -> None:
    slept: list[float] = []
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds

    busy = answer(503, "SlowDown")
    busy.__cause__.response["ResponseMetadata"]["HTTPHeaders"] = {"retry-after": "7"}  # type: ignore[union-attr]
    broken = type("PayloadError", (Exception,), {"code": 400})("a body was cut short")  # aiohttp: not an answer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores.time, "monotonic", lambda: clock.now)
        assert stores.retried(Failing(busy, broken), "s3://b/k", sleep=sleep) == "done"
    assert 7 + 0.75 <= sum(slept) <= 7 + 1.25


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (answer(403, "InvalidAccessKeyId"), "access denied (status 403, InvalidAccessKeyId). Check the store's cred"),
        (PermissionError("no"), "access denied (no). Check the store's credentials and permissions (AWS_PROFILE, or"),
        (answer(404, "NoSuchBucket"), "no such object or bucket (status 404, NoSuchBucket). Check the names"),
        (FileNotFoundError("k"), "no such object or bucket (status 404)."),
        (answer(400, "InvalidRequest"), "the store refused (status 400, InvalidRequest). Check the URL and"),
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
    assert stores.is_url("s3://b/k") and not stores.is_url("/a/b") and not stores.is_url("a.zip:1:2")
    with pytest.raises(ValueError, match=r"abc://x: cannot open abc:// .*Use a protocol that fsspec knows"):
        stores.filesystem("abc://x")

    def without_the_package(*arguments: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", without_the_package)
    with pytest.raises(ValueError, match=r"opens s3:// is not installed. Install it: pip install s3fs"):
        stores.filesystem("s3://b/k")


@pytest.fixture
def bucket() -> Any:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with loopback_s3.serving() as url:
        yield url


def test_the_words_of_a_real_store(bucket: str) -> None:
    """The errors above are what s3fs raises."""
    fs = stores.filesystem(bucket)
    with pytest.raises(stores.MissingObject, match=r"status 404, NoSuchBucket"):
        stores.retried(lambda: fs.pipe_file("nowhere/x", b""), "s3://nowhere/x")
    with pytest.raises(stores.MissingObject, match=r"s3://bucket/x: there is no such object"):
        stores.retried(lambda: fs.info("bucket/x"), "s3://bucket/x")
