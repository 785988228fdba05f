"""Objects in stores: retries, versions, reading ahead, long objects. fsspec's memory:// stands for a store."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from fairseq import stores as all_stores
from fairseq.data.audio.audio_utils import UnreadableAudio, audio_format, get_waveform, read_frames
from fairseq.data.audio.places import Place
from fairseq.data.storage import reader as reader_module
from fairseq.data.storage import stores
from fairseq.data.storage.answers import Fetched, Stamp, StoreError
from fairseq.data.storage.reader import CacheOptions, Reader, Remote, Versions
from fairseq.distributed import progress
from tests.unit.data.small_corpus import make_dataset, tell_tale, write_corpus

URL = "memory://bucket/a.flac"


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run, with retries that do not wait long."""
    monkeypatch.setattr(reader_module, "_reader", None)
    monkeypatch.setattr(reader_module, "_readers", {})
    monkeypatch.setattr(stores, "_stamps", {})
    monkeypatch.setattr(all_stores, "FIRST_PAUSE", 0.001)


@pytest.fixture
def flac(tmp_path: Path) -> bytes:
    soundfile.write(tmp_path / "a.flac", tell_tale(3, 40_000), 16_000, subtype="PCM_16")
    return (tmp_path / "a.flac").read_bytes()


class HttpError(Exception):
    """An error of an HTTP client."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__("the store's text")
        self.status, self.headers, self.request_info = status, headers or {}, "GET"


HttpError.__module__ = "client.exceptions"


# -- errors ------------------------------------------------------------------------------------------------------------


def attempt(error: Exception) -> str:
    """Make a request that fails once."""
    left = [error]

    def request() -> str:
        if left:
            raise left.pop()
        return "done"

    return stores.reliably(request, "s3://b/k", threading.Event(), lambda text: None)


@pytest.mark.parametrize(
    "error, message",
    [
        (HttpError(403), r"cannot read s3://b/k: access denied \(status 403, the store's text\). Check.*AWS_SECRET"),
        (HttpError(404), r"status 404.*AWS_ENDPOINT_URL.*Check the root \(line 1\)"),
        (OSError(errno.ENOSPC, "No space left"), "cannot read s3://b/k: .*No space left. Check the local disk"),
    ],
)
def test_errors_end_a_run(error: Exception, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        attempt(error)


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stores.PATIENCE == 600 and attempt(HttpError(503)) == "done"
    monkeypatch.setattr(stores, "PATIENCE", 0.0)
    with pytest.raises(StoreError, match="cannot read s3://b/k: .*status 503.*Rerun"):
        attempt(HttpError(503))


def test_bugs_are_not_retried() -> None:
    with pytest.raises(KeyError):
        attempt(KeyError("x"))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="Protocol not known: nowhere"):
        read_frames("nowhere://a/b.flac")
    monkeypatch.setattr("fsspec.url_to_fs", lambda url, **options: (_ for _ in ()).throw(ImportError("s3fs")))
    with pytest.raises(StoreError, match="cannot read s3://b/k: the package .* Install it: pip install"):
        stores.file_system("s3://b/k")


# -- reading -----------------------------------------------------------------------------------------------------------


def test_objects_and_ranges_equal_files(memory: fsspec.AbstractFileSystem, flac: bytes) -> None:
    memory.pipe(URL, flac)
    memory.pipe("memory://bucket/a.tar", b"x" * 77 + flac + b"y" * 99)
    for place in (URL, f"memory://bucket/a.tar:77:{len(flac)}"):
        assert audio_format(place) == (16_000, 40_000, 1)
        np.testing.assert_array_equal(read_frames(place), tell_tale(3, 40_000))
        np.testing.assert_array_equal(read_frames(place, 12_345, 2000), tell_tale(3, 40_000)[12_345:14_345])
        np.testing.assert_array_equal(get_waveform(place)[0][0], tell_tale(3, 40_000))


def test_long_objects_are_read_in_blocks(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_AT_ONCE", 20_000)
    monkeypatch.setattr(reader_module, "_BLOCK", 4096)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", wave, 16_000)
    data = (tmp_path / "a.flac").read_bytes()
    memory.pipe(URL, data)
    memory.pipe("memory://bucket/a.tar", b"x" * 77 + data + b"y" * 99)
    read: list[int] = []
    real_get = stores.get
    monkeypatch.setattr(stores, "get", lambda url, begin, end: read.append(end - begin) or real_get(url, begin, end))
    for place in (URL, f"memory://bucket/a.tar:77:{len(data)}"):
        read.clear()
        np.testing.assert_array_equal(
            read_frames(place, 150_000, 3000), read_frames(str(tmp_path / "a.flac"), 150_000, 3000)
        )
        assert sum(read) < len(data) / 3
        np.testing.assert_array_equal(read_frames(place), read_frames(str(tmp_path / "a.flac")))


def test_errors_of_later_blocks_are_not_taken_for_damaged_audio(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_AT_ONCE", 20_000)
    monkeypatch.setattr(reader_module, "_BLOCK", 4096)
    soundfile.write(tmp_path / "a.wav", np.zeros(100_000), 16_000)
    memory.pipe(URL, (tmp_path / "a.wav").read_bytes())
    real_get = stores.get

    def get(url: str, begin: int, end: int) -> Fetched:
        if begin > 50_000:
            raise HttpError(403)
        return real_get(url, begin, end)

    monkeypatch.setattr(stores, "get", get)
    with pytest.raises(StoreError, match="status 403"):
        read_frames(URL)


def test_wrong_places(memory: fsspec.AbstractFileSystem, flac: bytes) -> None:
    memory.pipe(URL, flac)
    memory.pipe("memory://bucket/empty.flac", b"")
    memory.pipe("memory://bucket/page.flac", b"<html>" + b" " * 100)
    for place, reason in [
        (f"memory://bucket/a.flac:0:{len(flac) + 1}", "bytes 0 to .*but the archive has only"),
        (f"{URL[:-5]}.flac:99999999:5", "bytes 99,999,999 to"),
        ("memory://bucket/empty.flac", "the file is empty"),
        ("memory://bucket/page.flac", "it is a web page"),
    ]:
        with pytest.raises(UnreadableAudio, match=reason):
            place = place.replace("a.flac:", "a.tar:")
            memory.pipe("memory://bucket/a.tar", flac)
            audio_format(place)
    with pytest.raises(StoreError, match="cannot read memory://bucket/gone.flac: the object or bucket does not exist"):
        audio_format("memory://bucket/gone.flac")


def test_a_replaced_object_is_an_error(memory: fsspec.AbstractFileSystem, flac: bytes, tmp_path: Path) -> None:
    reader_module.configure(CacheOptions(str(tmp_path / "cache")))
    memory.pipe(URL, flac)
    read_frames(URL)
    read_frames(URL)
    memory.pipe(URL, flac + b"\0")
    stores._stamps.clear()  # as in the next epoch's workers
    np.testing.assert_array_equal(read_frames(URL), tell_tale(3, 40_000))  # from the cache: the run's version
    for entry in (tmp_path / "cache/entries").glob("*/*"):
        entry.unlink()
    with pytest.raises(StoreError, match=f"{URL} was replaced during the run: .* {len(flac) + 1:,} bytes"):
        read_frames(URL)


def test_the_next_run_reads_a_replaced_object(
    memory: fsspec.AbstractFileSystem, flac: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = CacheOptions(str(tmp_path / "cache"))
    reader_module.configure(options)
    memory.pipe(URL, flac)
    read_frames(URL)
    for content, gets in [(flac[:-10], 1), (flac[:-10], 0)]:
        memory.pipe(URL, content) if gets else None
        monkeypatch.setattr(reader_module, "_readers", {})
        monkeypatch.setattr(stores, "_stamps", {})
        reader_module.configure(options)
        read: list[str] = []
        real_get = stores.get
        with monkeypatch.context() as patch:
            patch.setattr(stores, "get", lambda *range_: read.append(range_[0]) or real_get(*range_))  # noqa: B023
            assert audio_format(URL).frames == 40_000
        assert len(read) == gets


def test_versions() -> None:
    versions = Versions()
    for number in range(300):
        versions.check(f"s3://b/{number}", Stamp(f"{number}", number))
    for number in range(300):
        versions.check(f"s3://b/{number}", Stamp(f"{number}", number))
        assert versions.known(f"s3://b/{number}")
        with pytest.raises(StoreError, match="was replaced"):
            versions.check(f"s3://b/{number}", Stamp(f"{number}", number + 1))
    assert versions.known("s3://b/none") == 0


def test_reading_ahead_is_concurrent(memory: fsspec.AbstractFileSystem, flac: bytes) -> None:
    places = [f"memory://bucket/{number}.flac" for number in range(8)]
    together = threading.Barrier(len(places), timeout=10)  # breaks unless all are asked for at once

    class Together(Reader):
        def piece(self, url: str, begin: int, end: int, cancelled: threading.Event) -> Fetched:
            together.wait()
            return super().piece(url, begin, end, cancelled)

    for place in places:
        memory.pipe(place, flac)
    reader_module._reader = Together()
    with reader_module.reader().ahead([*places, places[0], "/local/file.flac"]):
        for place in places:
            assert len(read_frames(place)) == 40_000


def test_later_batches_are_fetched_once_and_within_a_limit(
    memory: fsspec.AbstractFileSystem, flac: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [f"memory://bucket/{number}.flac" for number in range(4)]
    for place in places:
        memory.pipe(place, flac)
    asked: list[str] = []
    fetch = Reader.fetch
    monkeypatch.setattr(
        Reader, "fetch", lambda self, place, event: asked.append(place.file) or fetch(self, place, event)
    )
    monkeypatch.setattr(reader_module, "_EXPECTED", 3 * reader_module._BLOCK)
    reader = reader_module.reader()
    reader.expect([*places, "/local/file.flac"])
    assert list(reader._expected) == places[:3]  # the last one would exceed the limit
    with reader.ahead(places):
        for place in places:
            assert len(read_frames(place)) == 40_000
    assert sorted(asked) == places and not reader._expected


def test_an_expected_object_that_is_missing_fails_its_own_batch(memory: fsspec.AbstractFileSystem, flac: bytes) -> None:
    memory.pipe(URL, flac)
    reader = reader_module.reader()
    reader.expect(["memory://bucket/gone.flac"])
    with reader.ahead([URL]):
        assert len(read_frames(URL)) == 40_000
    with (
        reader.ahead(["memory://bucket/gone.flac"]),
        pytest.raises(StoreError, match="gone.flac: the object or bucket"),
    ):
        read_frames("memory://bucket/gone.flac")


def test_waiting_for_a_store_is_progress(
    memory: fsspec.AbstractFileSystem, flac: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe(URL, flac)
    monkeypatch.setattr(all_stores, "FIRST_PAUSE", 3.0)
    failures = [HttpError(503)]
    real_get, seen = stores.get, []
    monkeypatch.setattr(
        stores, "get", lambda *range_: (_ for _ in ()).throw(failures.pop()) if failures else real_get(*range_)
    )
    monkeypatch.setattr(progress, "reading", seen.append)
    read_frames(URL)
    assert seen[0] == URL and f"{URL}: the store is busy or failing (status 503, the store's text), try 2; 1 s" in seen


def test_batches_from_a_store_equal_those_from_files(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a batch's audio is requested as a whole, before its first row is decoded."""
    asked_ahead: list[bool] = []
    read = Reader.open

    def noting(reader: Reader, text: str, place: Place) -> Remote:
        asked_ahead.append(text in reader._ahead)
        return read(reader, text, place)

    monkeypatch.setattr(Reader, "open", noting)
    manifest = write_corpus(tmp_path / "local", [2400 + 100 * number for number in range(12)])
    for file in (tmp_path / "local").glob("*.flac"):
        memory.pipe(f"memory://bucket/{file.name}", file.read_bytes())
    remote = tmp_path / "remote.tsv"
    remote.write_text("memory://bucket\n" + manifest.read_text().split("\n", 1)[1])
    from fairseq.data.options import BatchLimits

    limits = BatchLimits(max_tokens=12_000)
    local, far = make_dataset(manifest), make_dataset(remote, cache=CacheOptions(str(tmp_path / "cache")))
    for epoch in (1, 2):
        plans = local.batches(epoch, limits)
        for number in range(len(plans)):
            one, other = (each.collate_plan(plans.plan(number, epoch, 0)) for each in (local, far))
            np.testing.assert_array_equal(one["net_input"]["source"], other["net_input"]["source"])
            np.testing.assert_array_equal(one["id"], other["id"])
            assert not other["quarantined"]
    assert asked_ahead and all(asked_ahead)
