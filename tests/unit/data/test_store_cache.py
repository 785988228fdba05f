"""The cache of ranges: limits, versions, damage, several processes, kills."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fairseq.data.storage import cache as cache_module
from fairseq.data.storage.answers import Fetched, Stamp
from fairseq.data.storage.cache import Cache

STAMP = Stamp('"abc"', 1000)
KB = 1000


def used(folder: Path) -> int:
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in (folder / "entries").glob("*/*"))


def test_what_is_put_is_found(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), 1000 * KB)
    fetched = Fetched(b"\n\0ab" * 20, STAMP)
    assert cache.get("s3://b/k", 0, 80) is None
    cache.put("s3://b/k", 0, 80, fetched)
    for each in (cache, Cache(str(tmp_path / "cache"), 1000 * KB)):
        assert each.get("s3://b/k", 0, 80) == fetched
        assert each.get("s3://b/k", 0, 81) is None and each.get("s3://b/l", 0, 80) is None


def test_damaged_entries_are_not_used(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 1000 * KB)
    for change in (lambda b: b[:-1], lambda b: b[:-1] + b"x", lambda b: b"", lambda b: b"{}" + b[2:]):
        cache.put("s3://b/k", 0, 80, Fetched(b"a" * 80, STAMP))
        (entry,) = (tmp_path / "entries").glob("*/*")
        entry.write_bytes(change(entry.read_bytes()))
        assert cache.get("s3://b/k", 0, 80) is None
        assert not entry.exists()


def test_the_least_recently_used_are_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_FRESH", -1.0)
    cache = Cache(str(tmp_path), 100 * KB)
    for number in range(40):
        cache.put(f"s3://b/{number}", 0, 8000, Fetched(b"a" * 8000, STAMP))
        assert cache.get("s3://b/0", 0, 8000) is not None
        assert used(tmp_path) <= 100 * KB
        time.sleep(0.002)
    kept = [number for number in range(40) if cache.get(f"s3://b/{number}", 0, 8000) is not None]
    assert 9 <= len(kept) <= 12 and kept[0] == 0 and kept[-1] == 39 and kept[1:] == list(range(41 - len(kept), 40))


def test_an_entry_above_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 20 * KB)
    cache.put("s3://b/k", 0, 80, Fetched(b"a" * 80, STAMP))
    cache.put("s3://b/l", 0, 19_000, Fetched(b"a" * 19_000, STAMP))
    assert cache.get("s3://b/k", 0, 80) is not None and cache.get("s3://b/l", 0, 19_000) is None


@pytest.mark.process
def test_processes_that_are_killed_leave_a_usable_cache(tmp_path: Path) -> None:
    limit = 200 * KB
    Cache(str(tmp_path), limit)
    for attempt in range(5):
        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                own = Cache(str(tmp_path), limit)
                for turn in range(100_000):
                    key = f"s3://b/{(turn * 7 + number) % 60}"
                    own.get(key, 0, 9000)
                    own.put(key, 0, 9000, Fetched(bytes([turn % 256]) * 9000, STAMP))
                os._exit(0)
            children.append(child)
        time.sleep(0.1 + 0.05 * attempt)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert used(tmp_path) <= limit
    cache = Cache(str(tmp_path), limit)
    for number in range(60):
        found = cache.get(f"s3://b/{number}", 0, 9000)
        assert found is None or len(set(found.data)) == 1
    for file in (tmp_path / "temporary").iterdir():  # of the killed ones: removed when they are old
        os.utime(file, (0, 0))
    for number in range(30):
        cache.put(f"s3://b/new{number}", 0, 9000, Fetched(b"a" * 9000, STAMP))
    assert not list((tmp_path / "temporary").iterdir())


def test_a_full_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(str(tmp_path), 1000 * KB)

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for _ in range(3):
        cache.put("s3://b/k", 0, 80, Fetched(b"a" * 80, STAMP))
    assert [record.message for record in caplog.records] == [
        f"task.cache_dir: cannot write to {tmp_path}: No space left on device"
    ]
    assert not list((tmp_path / "temporary").iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="task.cache_dir=.*/file cannot be used: .*local disk"):
        Cache(str(tmp_path / "file"), KB)
