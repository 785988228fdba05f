"""Shards, and the names in them."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from fairseq.corpora.pack.keys import Keys, key_of
from fairseq.corpora.pack.shards import Member, Shard, put_in_place, unfinished

MEMBERS = [
    Member("a.flac", b"x" * 1000),
    Member("a.json", b"{}"),
    Member("ü-日本.flac", b"y" * 512),
    Member("b.txt", b""),
]


def write(path: Path) -> list[int]:
    shard = Shard(path)
    offsets = shard.add(MEMBERS)
    assert shard.size == sum(member.size() for member in MEMBERS)
    finished = shard.finish()
    assert not path.exists()
    put_in_place(path)
    data = path.read_bytes()
    assert finished == (len(data), hashlib.sha256(data).hexdigest())
    return offsets


def test_a_shard_is_an_ordinary_tar_file(tmp_path: Path) -> None:
    offsets = write(tmp_path / "x.tar")
    data = (tmp_path / "x.tar").read_bytes()
    assert data[257:265] == b"ustar\x0000"
    assert [data[place : place + len(m.data)] for place, m in zip(offsets, MEMBERS, strict=True)] == [
        member.data for member in MEMBERS
    ]
    with tarfile.open(tmp_path / "x.tar") as tar:
        found = tar.getmembers()
        assert [(m.name, m.offset_data) for m in found] == [(m.name, o) for m, o in zip(MEMBERS, offsets, strict=True)]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found} == {(0, 0, 0, "", "", 0o644)}


def test_only_names_outside_of_ascii_need_a_pax_header() -> None:
    assert Member("a" * 85 + ".flac", b"x").size() == 1024
    assert Member("ü.flac", b"x").size() == 1024 + 1024


def test_its_limit(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "x.tar")
    size = MEMBERS[0].size()
    assert shard.holds(size, size + 10240) and not shard.holds(size, size + 10239)
    shard.add(MEMBERS[:1])
    assert shard.finish().size <= size + 10240


def test_an_abandoned_shard_leaves_nothing(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "x.tar")
    assert unfinished(shard.path).exists()
    shard.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("84/121123/84-121123-0000", "84_121123_84-121123-0000"),
        ("a b.c/ü (1)", "a_b_c_ü_1"),
        ("../..", "utterance"),
        ("caf\udce9", "caf"),
        ("日本/語", "日本_語"),
    ],
)
def test_keys_have_no_dot_and_no_slash(name: str, key: str) -> None:
    assert key_of(name) == key


def test_long_keys_stay_different_and_fit_into_a_header() -> None:
    keys = {key_of("ü" * 200 + end) for end in "abc"}
    assert len(keys) == 3 and all(len(key.encode()) <= 80 for key in keys)


def test_repeated_keys_get_their_number() -> None:
    names = ["a/b", "a b", "c", "a_b-000000001", "a.b"]
    keys = Keys()
    for name in names:
        keys.add(name)
    keys.close()
    found = [keys.unique(name, number) for number, name in enumerate(names)]
    assert found == ["a_b-000000000", "a_b-000000001-", "c", "a_b-000000001", "a_b-000000004"]
    assert keys.unique("a.b", 4) == found[4], "whatever was asked before"
