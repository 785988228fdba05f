"""Places: paths, byte ranges of archives, URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq.data.audio.places import Place, is_url, joined, parse


@pytest.mark.parametrize(
    "text, place",
    [
        ("/a/b.flac", Place("/a/b.flac", None, None)),
        ("/a/b.tar:512:30", Place("/a/b.tar", 512, 30)),
        ("/a/b:3:4.flac", Place("/a/b:3:4.flac", None, None)),
        ("/a/b.tar:512:", Place("/a/b.tar:512:", None, None)),
        ("/a/b.tar:512:-3", Place("/a/b.tar:512:-3", None, None)),
        ("/a/b.tar:٣:٤", Place("/a/b.tar:٣:٤", None, None)),  # digits, but not ASCII
        ("s3://bucket/a.flac", Place("s3://bucket/a.flac", None, None)),
        ("s3://bucket/a.tar:512:30", Place("s3://bucket/a.tar", 512, 30)),
        ("http://localhost:8000/a", Place("http://localhost:8000/a", None, None)),
        ("http://localhost:8000/a.tar:1:2", Place("http://localhost:8000/a.tar", 1, 2)),
        ("file:///a/b.tar:1:2", Place("/a/b.tar", 1, 2)),
        ("file:///a/b.flac", Place("/a/b.flac", None, None)),
    ],
)
def test_parse(text: str, place: Place) -> None:
    assert parse(text) == place


def test_an_existing_file_takes_precedence_over_a_range(tmp_path: Path) -> None:
    (tmp_path / "rec:10:20").touch()
    assert parse(f"{tmp_path}/rec:10:20") == Place(f"{tmp_path}/rec:10:20", None, None)
    assert parse(f"{tmp_path}/rec:10:21") == Place(f"{tmp_path}/rec", 10, 21)


def test_urls() -> None:
    for url in ("s3://b/k", "http://h/x", "memory://a", "simplecache::s3://b/k", "file:///a", "abfs+x.y://c"):
        assert is_url(url)
    for path in ("/a/b", "a/b", "a:/b", "://a", "", "a.tar:1:2", "1a://b", "/x://y"):
        assert not is_url(path)


def test_joined() -> None:
    assert joined("/root", "a/b.flac") == "/root/a/b.flac"
    assert joined("/root/", "/disk2/b.flac") == "/disk2/b.flac"
    assert joined("/root", "s3://bucket/b.flac") == "s3://bucket/b.flac"
    assert joined("s3://bucket/corpus", "a.tar:1:2") == "s3://bucket/corpus/a.tar:1:2"
    assert joined("s3://bucket/corpus/", "a.flac") == "s3://bucket/corpus/a.flac"
    assert joined("s3://bucket/corpus", "/disk2/b.flac") == "/disk2/b.flac"
    assert joined("", "a.flac") == "a.flac"
