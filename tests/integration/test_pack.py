"""`fairseq-pack` as a user runs it."""

from __future__ import annotations

from pathlib import Path

from fairseq.corpora.pack.source import Json
from fairseq_cli import pack
from tests.unit.corpora.made_up import write_audio
from tests.warm import Done, Warm

MODULE = "fairseq_cli.pack"


def make(folder: Path) -> None:
    for number in range(12):
        write_audio(folder / f"in/{number:02d}.wav", 8000 + 100 * number, number)
    (folder / "in/05.wav").write_bytes(b"<html>")


def command(warm: Warm, folder: Path, *more: str) -> Done:
    return warm.module(MODULE, ["in", "--shard-size", "100KB", *more], folder)


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.tar")}


def test_the_number_of_workers_changes_nothing(warm: Warm, tmp_path: Path) -> None:
    make(tmp_path)
    found = []
    for workers in ("1", "3"):
        done = command(warm, tmp_path, "--dest", workers, "--workers", workers, "--max-left-out", "0.1")
        assert done.code == pack.SOME_LEFT_OUT, done.output
        assert done.output.splitlines()[-1].startswith(
            f"left out: 1 utterances, see {workers}/train.left_out.tsv; the first: 05.wav: it is a web page"
        )
        found.append(shards(tmp_path / workers))
    assert len(found[0]) > 2 and found[0] == found[1]


def test_a_mistake_is_one_line(warm: Warm, tmp_path: Path) -> None:
    make(tmp_path)
    done = command(warm, tmp_path, "--dest", "out")
    assert done.code == 1 and done.output.startswith("fairseq-pack: 1 of 12 utterances cannot be packed")
    for more, problem in (
        (("--shard-size", "big"), "--shard-size is 'big'; it must be a size such as"),
        (("--shard-size", "1KB"), "must be at least 100KB"),
        (("--workers", "0"), "--workers is 0"),
        (("--max-left-out", "2"), "must be from 0 to 1"),
        (("--codec", "copy", "--resample", "8000"), "cannot be combined with --resample"),
        (("--name", "a.b"), "--name is 'a.b'"),
    ):
        done = command(warm, tmp_path, "--dest", "other", *more)
        assert done.code == 1 and problem in done.output, done.output


def test_sizes() -> None:
    sizes = {"1GB": 10**9, "500MB": 5 * 10**8, "2GiB": 2**31, "1.5g": 15 * 10**8, "200000": 200000, "3 MB": 3 * 10**6}
    assert {text: pack.bytes_of(text, "x") for text in sizes} == sizes


def test_report_names_mixed_rates_and_dropped_utterances() -> None:
    result: dict[str, Json] = {
        "utterances": 3,
        "hours": 0.5,
        "shards": 1,
        "bytes": 2 * 10**9,
        "rates": {"8000": 1, "16000": 2},
        "clipped": 1,
        "left_out": 0,
        "dropped": 4,
        "first_left_out": None,
        "removed": {"!": 2},
    }
    lines = pack.report(result, Path("out"), "train")
    assert "sample rates: 8000 Hz: 1, 16000 Hz: 2" in lines and "removed from the texts: '!' 2x" in lines
    assert lines[-1] == "left out: 0 utterances" and "size: 2.00 GB" in lines[0]
