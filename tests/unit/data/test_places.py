"""Places: paths, byte ranges of archives, URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq.data.audio.places import Place, parse


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
