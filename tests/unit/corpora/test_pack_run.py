"""Packing from beginning to end, in this process."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.corpora.pack import outputs, record, run
from fairseq.corpora.pack.encode import Settings
from fairseq.corpora.pack.run import Job, pack
from fairseq.corpora.pack.survey import LabelRules
from fairseq.data.audio.manifest import Manifest
from fairseq.data.dictionary import Dictionary
from tests.unit.corpora.made_up import audio_bytes, write_audio

SIZE = 100_000  # of a shard: two of the files


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    """A NeMo manifest of seven files with texts."""
    lines = []
    for number in range(7):
        write_audio(tmp_path / f"in/{number}.wav", 16000 + number, number)
        lines.append({"audio_filepath": f"{number}.wav", "text": f"it's {'abcdefg'[number]}", "speaker": number % 2})
    file = tmp_path / "in/train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def job(corpus: Path, dest: str = "out", **values: Any) -> Job:
    folder = corpus if corpus.is_dir() else corpus.parent
    return Job(str(corpus), folder.parent / dest, **{"shard_size": SIZE, "name": "train", **values})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes().replace(str(folder).encode(), b"DEST")
        for file in folder.iterdir()
        if not file.name.endswith(record.RECORD) and file.name != outputs.SUMS
    }


def break_file(corpus: Path, number: int) -> None:
    (corpus.parent / f"{number}.wav").write_bytes(b"<html>")


def test_what_is_written(corpus: Path) -> None:
    result = pack(job(corpus))
    out = corpus.parents[1] / "out"
    assert (result["utterances"], result["shards"], result["left_out"]) == (7, 4, 0)
    assert all((out / f"train-{number:06d}.tar").stat().st_size <= SIZE for number in range(4))
    manifest = Manifest(out / "train.tsv")
    assert manifest.sizes.tolist() == [16000 + number for number in range(7)]
    place = manifest.name(2).split(":")
    assert place[0] == "train-000001.tar"
    with tarfile.open(out / place[0]) as tar:
        names = tar.getnames()
        assert names[:3] == ["2.flac", "2.json", "2.txt"]
        assert [tar.getmember("2.flac").offset_data, tar.getmember("2.flac").size] == [int(place[1]), int(place[2])]
        facts = json.load(tar.extractfile("2.json"))  # type: ignore[arg-type]
        assert tar.extractfile("2.txt").read() == b"it's c"  # type: ignore[union-attr]
    assert facts == {
        "key": "2",
        "origin": "2.wav",
        "frames": 16002,
        "sample_rate": 16000,
        "text": "it's c",
        "speaker": "0",
    }
    assert json.loads((out / "train.jsonl").read_text().splitlines()[2]) == facts
    assert (out / "train.wrd").read_text().splitlines()[2] == "IT'S C"
    assert (out / "train.ltr").read_text().splitlines()[2] == "I T ' S | C |"
    dictionary = Dictionary.load(str(out / "dict.ltr.txt"))
    assert dictionary.symbols[4] == "|" and set(dictionary.symbols[4:]) == set("|IT'SABCDEFG")


def test_the_trainer_reads_the_same_samples(corpus: Path) -> None:
    from fairseq.data.audio.audio_utils import read_samples

    pack(job(corpus))
    manifest = Manifest(corpus.parents[1] / "out/train.tsv")
    for number in range(7):
        assert np.array_equal(
            read_samples(manifest.file(number)).wave, read_samples(str(corpus.parent / f"{number}.wav")).wave
        )


def test_checksums_are_those_that_sha256sum_checks(corpus: Path) -> None:
    pack(job(corpus))
    out = corpus.parents[1] / "out"
    lines = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert set(lines) == set(contents(out)), "all files but the record and the list itself"
    assert lines == {file: outputs._sha256(out / file) for file in lines}


def test_a_finished_pack_is_not_done_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack(job(corpus))
    monkeypatch.setattr(run, "encode", None)
    assert pack(job(corpus)) == first


def die_at(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """Fail at the encoding of an utterance; the list receives what was encoded."""
    done: list[str] = []

    def encode(item: Any, settings: Any) -> Any:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(item.key)
        return original(item, settings)

    original = run.encode
    monkeypatch.setattr(run, "encode", encode)
    return done


@pytest.mark.parametrize("count", range(7))
def test_an_interrupted_pack_continues(corpus: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    break_file(corpus, 3)
    whole = job(corpus, "whole", max_left_out=0.5)
    pack(whole)
    broken = job(corpus, max_left_out=0.5)
    with monkeypatch.context() as patch:
        die_at(patch, count)
        with pytest.raises(KeyboardInterrupt):
            pack(broken)
    finished = len(list(broken.dest.glob("*.tar")))
    assert not list(broken.dest.glob("*.tar.part")) and not (broken.dest / "train.tsv").exists()
    with monkeypatch.context() as patch:
        again = die_at(patch, 99)
        pack(broken)
    assert len(again) <= 7 - 2 * finished, "what is finished is not encoded again"
    assert contents(broken.dest) == contents(whole.dest)


@pytest.mark.parametrize(("size", "left"), [(SIZE, ["2", "3", "4", "5", "6"]), (10**6, [])])
def test_killed_between_the_record_and_the_final_name(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, size: int, left: list[str]
) -> None:
    pack(job(corpus, "whole", shard_size=size))
    with monkeypatch.context() as patch:
        patch.setattr(record, "put_in_place", None)
        with pytest.raises(TypeError):
            pack(job(corpus, shard_size=size))
    out = corpus.parents[1] / "out"
    assert [file.name for file in out.glob("*.tar*")] == ["train-000000.tar.part"]
    with monkeypatch.context() as patch:
        again = die_at(patch, 99)
        pack(job(corpus, shard_size=size))
    assert again == left
    assert contents(out) == contents(corpus.parents[1] / "whole")


def interrupted(corpus: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Path:
    with monkeypatch.context() as patch:
        die_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            pack(job(corpus, **values))
    return corpus.parents[1] / "out"


def test_the_record_cut_off_in_a_line(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(job(corpus, "whole"))
    out = interrupted(corpus, monkeypatch)
    file = out / "train.pack.jsonl"
    file.write_bytes(file.read_bytes()[:-5])  # the second shard was not recorded
    (out / "train.utterances.part").write_bytes((out / "train.utterances.part").read_bytes() + b'{"sha')
    for unfinished in ("train-000001.tar.part", "train-000009.tar.part", "train.tsv.part", "SHA256SUMS.part"):
        (out / unfinished).write_bytes(b"half")
    result = pack(job(corpus))
    assert contents(out) == contents(corpus.parents[1] / "whole")
    assert pack(job(corpus)) == result, "the record is whole again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": Settings("wav")}, "--codec was 'flac' and is now 'wav'"),
        ({"shard_size": 200_000}, "--shard-size was 100000 and is now 200000"),
        ({"labels": None}, "labels was True and is now False"),
        ({"labels": LabelRules("lower")}, "--case was 'upper' and is now 'lower'"),
    ],
)
def test_other_options_are_refused(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    out = interrupted(corpus, monkeypatch)
    before = contents(out)
    with pytest.raises(ValueError, match="--restart to pack from the beginning") as error:
        pack(job(corpus, **change))
    assert message in str(error.value) and contents(out) == before
    pack(job(corpus, restart=True, **change))
    pack(job(corpus, "fresh", **change))
    assert contents(out) == contents(corpus.parents[1] / "fresh")


def test_restart_makes_the_dictionary_again(corpus: Path) -> None:
    pack(job(corpus))
    pack(job(corpus, restart=True, labels=LabelRules("lower")))
    pack(job(corpus, "fresh", labels=LabelRules("lower")))
    out, fresh = corpus.parents[1] / "out", corpus.parents[1] / "fresh"
    assert contents(out) == contents(fresh) and "i" in Dictionary.load(str(out / "dict.ltr.txt")).symbols


def test_names_and_texts_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/caf\udce9.wav").write_bytes(audio_bytes(800, 1))
    (tmp_path / "in/b\udce9d.wav").write_bytes(b"x")
    pack(job(tmp_path / "in", max_left_out=0.5))
    facts = json.loads((tmp_path / "out/train.jsonl").read_text())
    assert (facts["key"], facts["origin"]) == ("caf", "caf?.wav")
    assert (tmp_path / "out/train.left_out.tsv").read_text().startswith("b\\udce9d.wav\t")
    (tmp_path / "in/train.jsonl").write_text('{"audio_filepath": "caf\\udce9.wav", "text": "a\\ud83d b"}\n')
    pack(job(tmp_path / "in/train.jsonl", "labelled"))
    assert (tmp_path / "labelled/train.wrd").read_text() == "A B\n"


def test_a_changed_source_is_refused(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(corpus, monkeypatch)
    lines = corpus.read_text()
    corpus.write_text(lines.replace("it's a", "it is a"))
    with pytest.raises(ValueError, match="the source has changed .it had 7 utterances, and now has 7"):
        pack(job(corpus))
    corpus.write_text(lines)
    pack(job(corpus))


def test_a_shard_that_is_gone_is_an_error(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = interrupted(corpus, monkeypatch)
    (out / "train-000000.tar").unlink()
    with pytest.raises(ValueError, match="the shard train-000000.tar is missing or has changed. Use --restart"):
        pack(job(corpus))


def test_other_files_in_the_destination_are_refused(corpus: Path) -> None:
    out = corpus.parents[1] / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="did not write, such as thesis.txt"):
        pack(job(corpus, restart=True))
    assert [file.name for file in out.iterdir()] == ["thesis.txt"]


def test_a_second_command_at_the_same_time_is_refused(corpus: Path) -> None:
    """A lock of this kind belongs to a process, so that the other one must be one."""
    import os

    job_ = job(corpus)
    job_.dest.mkdir()
    held = record.Record(job_.dest, "train")
    child = os.fork()
    if child == 0:
        try:
            pack(job_)
        except ValueError as error:
            os._exit(7 if "another fairseq-pack writes train" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    held.close()


def test_two_names_share_a_folder_and_its_dictionary(corpus: Path) -> None:
    pack(job(corpus))
    out = corpus.parents[1] / "out"
    dictionary = (out / "dict.ltr.txt").read_bytes()
    valid = corpus.with_name("valid.jsonl")
    valid.write_text(json.dumps({"audio_filepath": "0.wav", "text": "zebra"}) + "\n")
    with pytest.raises(ValueError, match="letters that .*dict.ltr.txt does not have: 2 .line 1: '[ZR]'"):
        pack(job(valid, name="valid"))
    assert not list(out.glob("valid*")), "nothing was started"
    valid.write_text(json.dumps({"audio_filepath": "0.wav", "text": "a bit"}) + "\n")
    (out / "train.tsv.index").write_bytes(b"a run's")
    pack(job(valid, name="valid"))
    assert (out / "dict.ltr.txt").read_bytes() == dictionary
    assert (out / "valid.wrd").read_text() == "A BIT\n"
    assert {"train-000003.tar", "valid-000000.tar"} <= {
        line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()
    }


def test_the_dictionary_of_an_unfinished_pack_is_waited_for(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = interrupted(corpus, monkeypatch)
    with pytest.raises(ValueError, match="the unfinished pack train, which makes the dictionary"):
        pack(job(corpus, name="valid"))
    given = corpus.with_name("dict.txt")
    given.write_text("".join(f"{letter} 1\n" for letter in "|ABCDEFGIST'"))
    pack(job(corpus, name="valid", dictionary=given))
    assert (out / "dict.ltr.txt").read_bytes() == given.read_bytes()


def test_utterances_without_a_transcript(corpus: Path) -> None:
    lines = corpus.read_text().splitlines()
    lines[1] = json.dumps({"audio_filepath": "1.wav", "text": " ?! "})
    corpus.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="1 of 7 utterances have no transcript: 1.wav. Use --drop"):
        pack(job(corpus))
    result = pack(job(corpus, labels=LabelRules(drop=True)))
    out = corpus.parents[1] / "out"
    assert (result["utterances"], result["left_out"], result["dropped"]) == (6, 0, 1)
    assert (out / "train.left_out.tsv").read_text() == "1.wav\tit has no transcript (--drop)\n"
    lines[1] = json.dumps({"audio_filepath": "1.wav"})
    corpus.write_text("\n".join(lines))
    assert pack(job(corpus, "all", labels=None))["utterances"] == 7
    with tarfile.open(corpus.parents[1] / "all/train-000000.tar") as tar:
        names = tar.getnames()
        assert names[3:] == ["1.flac", "1.json", "1.txt"], "all have the same files, as `datasets` requires"
    assert not list((corpus.parents[1] / "all").glob("*.ltr"))


def test_files_that_cannot_be_read_are_left_out(corpus: Path) -> None:
    break_file(corpus, 0)
    break_file(corpus, 6)
    with pytest.raises(ValueError, match="1 of 7 utterances cannot be packed, more than --max-left-out 0.1 allows"):
        pack(job(corpus, max_left_out=0.1))
    result = pack(job(corpus, max_left_out=0.3))  # another share continues the same pack
    assert (result["utterances"], result["left_out"]) == (5, 2)
    left_out = (corpus.parents[1] / "out/train.left_out.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in left_out] == ["0.wav", "6.wav"] and "web page" in left_out[0]
    assert (corpus.parents[1] / "out/train.wrd").read_text().splitlines()[0] == "IT'S B"


def test_nothing_can_be_packed(corpus: Path) -> None:
    for number in range(7):
        break_file(corpus, number)
    with pytest.raises(ValueError, match="(?s)no utterance could be packed. The first:\n  0.wav: it is a web page"):
        pack(job(corpus, max_left_out=1.0))
    corpus.write_text('{"audio_filepath": "a.wav"}\n')
    corpus.write_text("\n")
    with pytest.raises(ValueError, match="the source has no utterances"):
        pack(job(corpus, kind="nemo", restart=True))


def test_a_disk_without_space(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="0.0 GB are free, but the shards need about"):
        pack(job(corpus.parent, kind="folder"))


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "-x", "train-000001", ".."])
def test_names_that_files_cannot_have(corpus: Path, name: str) -> None:
    with pytest.raises(ValueError, match="--name is"):
        pack(job(corpus, name=name))


def test_a_folder_without_transcripts_has_no_labels(corpus: Path) -> None:
    result = pack(job(corpus.parent, kind="folder"))
    names = set(contents(corpus.parents[1] / "out"))
    assert result["utterances"] == 7 and not {name for name in names if name.endswith((".ltr", ".wrd", "dict.ltr.txt"))}
