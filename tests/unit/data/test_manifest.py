"""Reading manifests, and standing in for files that cannot be decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairseq.data.audio.manifest import JoinedManifest, Manifest, Segment
from fairseq.data.audio.quarantine import Quarantine, Substitutes, Trouble


def write(tmp_path: Path, data: bytes, name: str = "train.tsv") -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def test_names_and_sizes(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path, b"/data/speech\na/b.flac\t16000\nc d.wav\t7\n"))
    assert (len(manifest), manifest.root, manifest.sizes.tolist()) == (2, "/data/speech", [16000, 7])
    assert (manifest.name(0), manifest.file(1)) == ("a/b.flac", "/data/speech/c d.wav")


@pytest.mark.parametrize("data", [b"/d\na\t1\nb\t22", b"/d\r\na\t1\r\nb\t22\r\n", b"/d\n\na\t1\n\n\nb\t22\n\n"])
def test_line_ends_of_all_kinds(tmp_path: Path, data: bytes) -> None:
    manifest = Manifest(write(tmp_path, data))
    assert (manifest.root, manifest.sizes.tolist(), manifest.name(1)) == ("/d", [1, 22], "b")


def test_names_that_are_no_utf8_survive(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path, b"/d\n\xff\xfe.flac\t5\n\xc3\xa9.flac\t6\n"))
    assert manifest.name(0).encode(errors="surrogateescape") == b"\xff\xfe.flac"
    assert manifest.name(1) == "é.flac"


@pytest.mark.parametrize(
    "data, named",
    [
        (b"", "empty"),
        (b"/d\na.flac\t5\nb.flac 6\n", "line 3: number of columns: 1 instead of 2"),
        (b"/d\na.flac\t5\t6\t7\n", "line 2: number of columns: 4 instead of 2 or 3"),
        (b"/d\n\na.flac\t5\nb.flac\t5\t6\n", "line 4: number of columns: 3, but line 3 has 2"),
        (b"/d\na.flac\t5\t6\r\nb.flac\t5\r\n", "line 3: number of columns: 2, but line 2 has 3"),
        (b"/d\na.flac\t5\tsix\n", "line 2: the start 'six' is not a valid number of frames"),
        (b"/d\na.flac\t5\t-6\n", "line 2: the start '-6'"),
        (b"/d\na.flac\t5\t\n", "line 2: the start ''"),
        (b"/d\na.flac\t\t6\n", "line 2: the length ''"),
        (b"/d\na.flac\t5\t6\nb\0.flac\t6\t7\n", "line 3: the line has a zero byte"),
        (b"/d\na.flac\t12x\n", "line 2.*12x"),
        (b"/d\na.flac\t-3\n", "line 2.*-3"),
        (b"/d\n\na.flac\t\n", "line 3"),
        (b"/d\na.flac\t" + b"9" * 30 + b"\n", "line 2"),
        (b"/d\na.flac\t5\n\t6\n", "line 3: the path is missing"),
        (b"\xef\xbb\xbf", "empty"),
        (b"a.flac\t5\nb.flac\t6\n", r"line 1: 'a\.flac\\t5' looks like the line of an audio file"),
        (b"\xef\xbb\xbf/d/a.flac\t5\n/d/b.flac\t6\n", "line 1: '/d/a.flac"),
        ("/d\r\na.flac\t5\r\n".encode("utf-16"), "line 1: the file is UTF-16"),
        ("/d\na.flac\t5\n".encode("utf-16-be"), "line 1: the file is UTF-16"),
        (b"/d\na.flac\t5\nb\0.flac\t6\n", "line 3: the line has a zero byte"),
        (b"/d\ra.flac\t5\r", "line 1: lines end with a carriage return only"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, data: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Manifest(write(tmp_path, data))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\n\n"])
def test_a_third_column_is_the_first_frame(tmp_path: Path, line_end: bytes) -> None:
    lines = (b"\xef\xbb\xbf/d", b"caf\xe9 1.flac\t100\t0", b"caf\xe9 1.flac\t50\t100", b"/x/b.flac\t7\t16000", b"")
    manifest = Manifest(write(tmp_path, line_end.join(lines)))
    assert manifest.starts is not None
    assert (manifest.sizes.tolist(), manifest.starts.tolist()) == ([100, 50, 7], [0, 100, 16000])
    assert (manifest.root, manifest.start(1), manifest.file(1)) == ("/d", 100, "/d/caf\udce9 1.flac")
    assert [manifest.utterance(i) for i in (1, 2)] == ["caf\udce9 1.flac:100-150", "/x/b.flac:16000-16007"]
    assert manifest.audio(2) == Segment("/x/b.flac", 16000, 7)
    assert manifest.row(1) == "caf\udce9 1.flac\t50\t100"
    assert manifest.places([1]).endswith("caf\\xe9 1.flac:100-150")


def test_without_a_third_column_an_utterance_is_its_file(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path, b"/d\na.flac\t100\n"))
    assert (manifest.starts, manifest.start(0)) == (None, 0)
    assert (manifest.utterance(0), manifest.audio(0), manifest.row(0)) == ("a.flac", "/d/a.flac", "a.flac\t100")


def test_one_manifest_spans_folders_and_stores(tmp_path: Path) -> None:
    lines = f"{tmp_path}\na.flac\t1\n/disk/b.flac\t2\ns3://bucket/c.flac\t3\nhttps://host/x.tar:5:6\t4\n"
    manifest = Manifest(write(tmp_path, lines.encode()))
    assert [manifest.file(i) for i in range(4)] == [
        f"{tmp_path}/a.flac",
        "/disk/b.flac",
        "s3://bucket/c.flac",
        "https://host/x.tar:5:6",
    ]
    elsewhere = Manifest(write(tmp_path, b"s3://bucket/corpus/\na.flac\t1\n/disk/b.flac\t2\nx.tar:512:9\t3\n"))
    assert elsewhere.root_problem() is None  # a store is not looked for on this machine
    assert [elsewhere.file(i) for i in range(3)] == [
        "s3://bucket/corpus/a.flac",
        "/disk/b.flac",
        "s3://bucket/corpus/x.tar:512:9",
    ]


def test_a_root_is_needed_if_a_path_is_relative_to_it(tmp_path: Path) -> None:
    mixed = Manifest(write(tmp_path, b"/gone\ns3://bucket/a\t1\n/d/b\t1\nc\t1\n"))
    assert "'/gone' is not a folder" in str(mixed.root_problem())
    joined = JoinedManifest([mixed])
    joined.check_root(0)
    joined.check_root(1)
    with pytest.raises(ValueError, match="'/gone' is not a folder"):
        joined.check_root(2)


def test_a_byte_order_mark_is_no_part_of_the_root(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path, b"\xef\xbb\xbf/d\r\na\t1\r\n"))
    assert (manifest.root, manifest.file(0), manifest.sizes.tolist()) == ("/d", "/d/a", [1])


def test_a_root_that_is_not_there_is_named_by_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio").mkdir()
    for root in (b"audio", b"", str(tmp_path).encode()):
        assert Manifest(write(tmp_path, root + b"\na\t1\n")).root_problem() is None
    assert Manifest(write(tmp_path, b"/gone\n/d/a.wav\t1\n")).root_problem() is None  # absolute paths do not need it
    relative = str(tmp_path)[1:] + "/audio"
    problem = str(Manifest(write(tmp_path, f"{relative}\na\t1\n".encode())).root_problem())
    assert (
        f"train.tsv, line 1: the root '{relative}' is not a folder on this machine, relative to {tmp_path}" in problem
        and "slash" in problem
    )
    assert "'caf\\\\xe9'" in str(Manifest(write(tmp_path, b"caf\xe9\na\t1\n")).root_problem())
    assert "is a file, not a folder" in str(Manifest(write(tmp_path, b"train.tsv\na\t1\n")).root_problem())


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path, b"/d\n\na\t1\n\ncaf\xe9\t2\n"))
    assert manifest.places([0, 1]) == "line 3: a; line 5: caf\\xe9"


def test_a_missing_manifest_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fairseq-manifest"):
        Manifest(tmp_path / "train.tsv")


def test_a_root_without_files(tmp_path: Path) -> None:
    assert len(Manifest(write(tmp_path, b"/d\n"))) == 0


def test_listing_is_the_same_wherever_the_files_lie(tmp_path: Path) -> None:
    here = Manifest(write(tmp_path, b"/here\na\t1\n", "a.tsv"))
    there = Manifest(write(tmp_path, b"/there/on/disk\na\t1\n", "b.tsv"))
    other = Manifest(write(tmp_path, b"/here\na\t2\n", "c.tsv"))
    assert here.listing() == there.listing() != other.listing()


def test_joined(tmp_path: Path) -> None:
    joined = JoinedManifest(
        [Manifest(write(tmp_path, b"/x\na\t1\nb\t2\n", "x.tsv")), Manifest(write(tmp_path, b"/y\nc\t3\n", "y.tsv"))]
    )
    assert (len(joined), joined.sizes.tolist()) == (3, [1, 2, 3])
    assert [joined.file(i) for i in range(3)] == ["/x/a", "/x/b", "/y/c"]
    assert (joined.starts, joined.start(1), joined.is_segment(1)) == (None, 0, False)


def test_joined_with_segments(tmp_path: Path) -> None:
    joined = JoinedManifest(
        [Manifest(write(tmp_path, b"/x\na\t1\n", "x.tsv")), Manifest(write(tmp_path, b"/y\nc\t3\t9\n", "y.tsv"))]
    )
    assert joined.starts is not None
    assert (joined.starts.tolist(), joined.start(1)) == ([0, 9], 9)
    assert [joined.is_segment(i) for i in range(2)] == [False, True]
    assert [joined.title(i) for i in range(2)] == ["/x/a", "/y/c:9-12"]


def test_a_long_manifest_loads_in_a_second(tmp_path: Path) -> None:
    import time

    lines = "".join(f"train-clean-100/{i % 250}/{i:06d}.flac\t{20000 + i}\n" for i in range(281_241))
    path = write(tmp_path, b"/data\n" + lines.encode())
    began = time.process_time()
    manifest = Manifest(path)
    assert time.process_time() - began < 1  # 0.08 s on an idle core
    assert manifest.sizes[-1] == 20000 + 281_240


def test_quarantine_logs_once_and_stops_past_its_share(caplog: pytest.LogCaptureFixture) -> None:
    quarantine = Quarantine(total=200, max_share=0.01)
    quarantine.report([Trouble(3, "/d/three.flac", "broken")])
    quarantine.report([Trouble(3, "/d/three.flac", "broken"), Trouble(5, "/d/five.flac", "empty")])
    assert [record.message.split()[0] for record in caplog.records] == ["/d/three.flac", "/d/five.flac"]
    with pytest.raises(ValueError, match=r"(?s)3 of 200.*max_quarantined_share.*three.*five.*nine.flac: gone"):
        quarantine.report([Trouble(9, "/d/nine.flac", "gone")])


def test_remarks_do_not_count_as_quarantined_and_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    quarantine = Quarantine(total=200, max_share=0.0)
    for index in [*range(25), *range(25)]:
        quarantine.report([Trouble(index, f"/d/{index}.flac", "is longer", replaced=False)])
    assert [record.message for record in caplog.records] == [
        *(f"/d/{index}.flac: is longer" for index in range(3)),
        "/d/9.flac: is longer (files with remarks so far: 10)",
    ]


def test_substitutes_are_near_in_size_and_long_enough() -> None:
    substitutes = Substitutes(np.array([100, 10, 50, 70, 60, 90]))
    assert list(substitutes.of(4)) == [3, 2, 5, 1, 0]  # 70, 50, 90, 10, 100
    assert list(substitutes.of(4, at_least=60)) == [3, 5, 0]
    assert list(substitutes.of(0)) == [5, 3, 4, 2, 1]
