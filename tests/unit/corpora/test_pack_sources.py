"""Every kind of source: what it yields, and what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from fairseq.corpora.pack.encode import Encoded, Settings, encode
from fairseq.corpora.pack.source import Item, Options, Seconds
from fairseq.corpora.pack.sources import kinds, open_source
from tests.unit.corpora.made_up import RATE, audio_bytes, write_audio


def items(path: Path, kind: str | None = None, **options: str) -> list[Item]:
    source = open_source(path, kind, Options(**options))  # type: ignore[arg-type]
    found = list(source.items())
    for first in range(len(found) + 1):
        assert list(source.items(first)) == found[first:], "a killed command skips what it has"
    listed = list(source.items(audio=False))
    assert [(item.key, item.text, item.stamp) for item in listed] == [(i.key, i.text, i.stamp) for i in found]
    assert all(item.data is None for item in listed)
    return found


def refusal(path: Path, kind: str | None = None, **options: str) -> str:
    with pytest.raises(ValueError) as error:
        list(open_source(path, kind, Options(**options)).items())  # type: ignore[arg-type]
    return str(error.value)


def frames(item: Item) -> int:
    encoded = encode(item, Settings())
    assert isinstance(encoded, Encoded), encoded
    return encoded.frames


def write_lines(path: Path, *lines: object) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return path


def test_all_kinds_are_registered() -> None:
    assert kinds() == ["folder", "huggingface", "kaldi", "lhotse", "manifest", "nemo", "parquet"]


def test_what_is_nothing_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "gone")
    with pytest.raises(ValueError, match="is a URL; it must be a local file"):
        open_source("s3://bucket/corpus")
    assert "--from, one of: folder, huggingface" in refusal(write_lines(tmp_path / "notes.txt", "hello"))


# -- a folder ----------------------------------------------------------------------------------------------------------


def test_folder(tmp_path: Path) -> None:
    for name in ("b/1-2-0001.flac", "a/x.WAV", "a/.hidden.wav", ".git/y.wav", "a/notes.txt"):
        write_audio(tmp_path / name, 800, 1) if not name.endswith("txt") else (tmp_path / name).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    write_lines(tmp_path / "b/1-2.trans.txt", "1-2-0001 HELLO YOU")
    found = items(tmp_path)
    assert [(item.origin, item.key, item.text, item.speaker) for item in found] == [
        ("a/x.WAV", "a/x", None, None),
        ("b/1-2-0001.flac", "b/1-2-0001", "HELLO YOU", "1"),
    ]
    assert [item.origin for item in items(tmp_path, extensions=("flac",))] == ["b/1-2-0001.flac"]  # type: ignore[arg-type]
    assert "has no .mp3 files" in refusal(tmp_path, extensions=("mp3",))  # type: ignore[arg-type]


# -- manifests ---------------------------------------------------------------------------------------------------------


def test_manifest_with_labels_and_sidecar(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", 900, 1)
    write_lines(tmp_path / "train.tsv", str(tmp_path), "a.wav\t900", "b.wav\t700")
    write_lines(tmp_path / "train.wrd", "IT'S  A", "B-C")
    write_lines(tmp_path / "train.jsonl", {"speaker": 7, "rest": {"x": 1}}, {"key": "own"})
    source = open_source(tmp_path / "train.tsv")
    assert source.prepared, "its labels are not cleaned again"
    found = items(tmp_path / "train.tsv")
    assert [(i.key, i.text, i.speaker, dict(i.rest), i.frames) for i in found] == [
        ("a", "IT'S  A", "7", {"x": 1}, 900),
        ("own", "B-C", None, {}, 700),
    ]
    assert frames(found[1]) == 700, "what a run on the manifest sees"


def test_texts_of_a_sidecar_are_not_labels(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.tsv", str(tmp_path), "a.wav\t900")
    write_lines(tmp_path / "train.jsonl", {"text": "It's -- so!"})
    assert not open_source(tmp_path / "train.tsv").prepared
    assert items(tmp_path / "train.tsv")[0].text == "It's -- so!"


def test_manifest_with_letters_only(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.tsv", str(tmp_path), "a.wav\t900")
    write_lines(tmp_path / "train.ltr", "I T ' S | A |")
    assert items(tmp_path / "train.tsv")[0].text == "IT'S A"
    write_lines(tmp_path / "train.ltr", "A |", "B |")
    assert "train.ltr has 2 lines" in refusal(tmp_path / "train.tsv")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_sidecar_of_another_length(tmp_path: Path, count: int) -> None:
    write_lines(tmp_path / "train.tsv", str(tmp_path), "a.wav\t900", "b.wav\t900")
    write_lines(tmp_path / "train.jsonl", *({"key": str(number)} for number in range(count)))
    assert f"train.jsonl has {count} lines" in refusal(tmp_path / "train.tsv")


def test_manifest_of_segments(tmp_path: Path) -> None:
    write_audio(tmp_path / "day.wav", 9000, 1)
    write_lines(tmp_path / "train.tsv", str(tmp_path), "day.wav\t900\t100", "day.wav\t800\t5000")
    found = items(tmp_path / "train.tsv")
    assert [(item.key, item.start, item.frames) for item in found] == [("day-100", 100, 900), ("day-5000", 5000, 800)]
    assert [frames(item) for item in found] == [900, 800]


# -- tables ------------------------------------------------------------------------------------------------------------


def table(**columns: list[object]) -> object:
    return pytest.importorskip("pyarrow").table(columns)


def hub_rows(tmp_path: Path) -> object:
    write_audio(tmp_path / "c.wav", 820, 3)
    audio = [
        {"bytes": audio_bytes(800, 1), "path": "a.wav"},
        {"bytes": audio_bytes(810, 2, "FLAC"), "path": None},
        {"bytes": None, "path": "c.wav"},
        None,
    ]
    return table(
        audio=audio,
        sentence=["A", "B", None, "D"],
        client_id=[1, 2, 3, 4],
        age=[5, None, float("nan"), 8],
        id=[None] * 4,
    )


def check_hub_rows(found: list[Item], stem: str) -> None:
    assert [item.key for item in found] == ["a", f"{stem}-000000001", "c", f"{stem}-000000003"]
    assert [item.text for item in found] == ["A", "B", None, "D"]
    assert [item.speaker for item in found] == ["1", "2", "3", "4"]
    assert dict(found[0].rest) == {"age": 5} and dict(found[1].rest) == {}
    assert [frames(item) for item in found[:3]] == [800, 810, 820]
    assert found[3].problem == "the row has no audio"


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = hub_rows(tmp_path)
    parquet.write_table(rows, tmp_path / "train-0.parquet", row_group_size=2)
    check_hub_rows(items(tmp_path / "train-0.parquet"), "train-0")
    parquet.write_table(rows, tmp_path / "train-1.parquet")
    found = items(tmp_path)  # all files of a folder
    assert len(found) == 8 and found[5].key == "train-1-000000001"
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1" + bytes(50))
    assert "cannot read" in refusal(tmp_path) and "train-1.parquet" in refusal(tmp_path)


def test_parquet_files_of_several_splits(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet.write_table(table(audio=[audio_bytes(800, 1)]), tmp_path / f"data/{name}.parquet")
    assert "several splits: test, train" in refusal(tmp_path) and "/data/test-*.parquet'" in refusal(tmp_path)
    assert len(items(tmp_path / "data/train-*.parquet")) == 2
    assert "does not exist" in refusal(tmp_path / "data/valid-*.parquet")
    (tmp_path / "[1].parquet").write_bytes((tmp_path / "data/test-00000-of-00001.parquet").read_bytes())
    assert len(items(tmp_path / "[1].parquet")) == 1


def test_parquet_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "x.parquet"
    parquet.write_table(table(wav=[audio_bytes(800, 1)], words=["HI"], who=["me"], name=["n/1"]), file)
    found = items(file, text_column="words", speaker_column="who", key_column="name")
    assert (found[0].text, found[0].speaker, found[0].key, frames(found[0])) == ("HI", "me", "n/1", 800)
    assert "no column 'gone' (--text-column)" in refusal(file, text_column="gone")
    assert "no column of audio files' bytes" in refusal(file, audio_column="words")


def test_a_data_set_saved_to_disk(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    rows = hub_rows(tmp_path)
    with pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as file:
        with pa.ipc.new_stream(file, rows.schema) as writer:  # type: ignore[attr-defined]
            writer.write_table(rows, max_chunksize=3)
    write_lines(tmp_path / "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    check_hub_rows(items(tmp_path), "data-00000-of-00001")
    splits = tmp_path / "splits"
    (splits / "test").mkdir(parents=True)
    write_lines(splits / "dataset_dict.json", {"splits": ["test"]})
    write_lines(splits / "test/state.json", {})
    assert "Pack each one by itself" in refusal(splits)
    assert "cannot read" in refusal(splits / "test")


# -- NeMo --------------------------------------------------------------------------------------------------------------


def test_nemo(tmp_path: Path) -> None:
    write_audio(tmp_path / "audio/a.wav", 16070, 1)
    first = {"audio_filepath": "audio/a.wav", "duration": 1.0, "text": "hello", "speaker": "s", "lang": "en"}
    part = {"audio_filepath": str(tmp_path / "audio/a.wav"), "offset": 0.25, "duration": 0.5, "text": ""}
    found = items(write_lines(tmp_path / "train.json", first, "", part))
    assert [frames(item) for item in found] == [16070, 8000], "a rounded length is the whole file"
    assert (found[0].key, found[0].text, found[0].speaker) == ("audio/a", "hello", "s")
    assert dict(found[0].rest) == {"duration": 1.0, "lang": "en"}
    assert found[1].seconds == Seconds(0.25, 0.5) and found[1].key.endswith("audio/a-00000250")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"text": "a"}', "audio_filepath is missing"),
        ('{"audio_filepath": "a.wav", "offset": -1}', "offset is -1"),
        ('{"audio_filepath": "a.wav", "duration": "2 s"}', "duration is '2 s'"),
        ('{"audio_filepath": "a.wav", "duration": Infinity}', "duration is inf"),
    ],
)
def test_nemo_lines_that_are_wrong(tmp_path: Path, line: str, problem: str) -> None:
    file = write_lines(tmp_path / "train.json", {"audio_filepath": "a.wav"}, line)
    assert f"{file}, line 2: " in refusal(file) and problem in refusal(file)


def test_nemo_with_archives(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"audio_{shard}.tar", "w") as tar:
            data, info = audio_bytes(800 + shard, shard), tarfile.TarInfo(f"{shard}.wav")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    lines = [{"audio_filepath": f"{shard}.wav", "duration": 0.05, "shard_id": shard} for shard in range(2)]
    assert [frames(item) for item in items(write_lines(tmp_path / "train.json", *lines))] == [800, 801]
    lines[1]["audio_filepath"] = "gone.wav"
    assert "line 2: " in refusal(write_lines(tmp_path / "train.json", *lines))


# -- Kaldi -------------------------------------------------------------------------------------------------------------


def kaldi(tmp_path: Path) -> Path:
    write_audio(tmp_path / "a.wav", 16000, 1)
    write_lines(tmp_path / "wav.scp", f"rec1 {tmp_path}/a.wav", "rec2 a.wav")
    return tmp_path


def test_kaldi_without_segments(tmp_path: Path) -> None:
    write_lines(kaldi(tmp_path) / "text", "rec1 HELLO  YOU", "rec2")
    write_lines(tmp_path / "utt2spk", "rec1 s1", "rec2 s2")
    found = items(tmp_path)
    assert [(i.key, i.text, i.speaker) for i in found] == [("rec1", "HELLO  YOU", "s1"), ("rec2", "", "s2")]
    assert [frames(item) for item in found] == [16000, 16000]


def test_kaldi_with_segments(tmp_path: Path) -> None:
    write_lines(kaldi(tmp_path) / "segments", "u1 rec1 0.1 0.35", "u2 rec2 0.5 1.02", "u3 rec1 0.5 -1")
    found = items(tmp_path)
    assert [frames(item) for item in found] == [4000, 8000, 8000]
    assert dict(found[0].rest) == {"recording": "rec1", "start": 0.1, "duration": 0.25}


@pytest.mark.parametrize(
    ("file", "line", "problem"),
    [
        ("wav.scp", "rec3 sph2pipe -f wav a.sph |", "a pipe"),
        ("wav.scp", "rec3 wavs.ark:1234", "Archives of Kaldi are not read"),
        ("wav.scp", "rec1 again.wav", "rec1 is there twice"),
        ("segments", "u1 rec1 0.5 0.4", "the end must be after the start"),
        ("segments", "u1 rec1 0.5", "a line must be"),
        ("segments", "u1 gone 0.5 0.7", "has no recording 'gone'"),
    ],
)
def test_kaldi_lines_that_are_wrong(tmp_path: Path, file: str, line: str, problem: str) -> None:
    with open(kaldi(tmp_path) / file, "a") as more:
        more.write(line + "\n")
    assert problem in refusal(tmp_path) and f"{file}, line " in refusal(tmp_path)


# -- Lhotse ------------------------------------------------------------------------------------------------------------


def cut(path: Path, name: str = "c1", **changes: object) -> dict[str, object]:
    recording = {
        "id": "r1",
        "sources": [{"type": "file", "channels": [0], "source": str(path)}],
        "sampling_rate": RATE,
        "num_samples": 16000,
        "duration": 1.0,
        "channel_ids": [0],
    }
    spoken = {"id": "s", "recording_id": "r1", "start": 0, "duration": 0.5, "channel": 0, "text": "HI", "speaker": "a"}
    known = {"id": name, "start": 0.25, "duration": 0.5, "channel": 0, "supervisions": [{**spoken, "custom": {"x": 1}}]}
    return {**known, "recording": recording, "type": "MonoCut", **changes}


def test_lhotse(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 16000, 1)
    lines = [cut(tmp_path / "a.wav"), cut(tmp_path / "a.wav", "whole", start=0, duration=1.0, supervisions=[])]
    file = tmp_path / "cuts.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    found = items(file)
    assert [(i.key, i.text, i.speaker, i.start, i.frames) for i in found] == [
        ("c1", "HI", "a", 4000, 8000),
        ("whole", None, None, 0, -1),
    ]
    assert dict(found[0].rest) == {"x": 1, "recording": "r1"}
    assert [frames(item) for item in found] == [8000, 16000]


def test_what_only_lhotse_decodes(tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    write_audio(tmp_path / "a.wav", 16000, 1)
    plain = cut(tmp_path / "a.wav")
    mixed = {
        "id": "mix",
        "type": "MixedCut",
        "tracks": [{"cut": plain, "type": "MonoCut", "offset": offset} for offset in (0.0, 0.25)],
    }
    found = items(write_lines(tmp_path / "cuts.jsonl", plain, mixed))
    assert found[1].load is not None and frames(found[1]) == 12000


def test_lhotse_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    file = write_lines(tmp_path / "cuts.jsonl", cut(tmp_path), {"id": "m", "type": "MixedCut", "tracks": []})
    assert "line 2: " in refusal(file) and "pip install lhotse" in refusal(file)


def test_lhotse_lines_that_are_wrong(tmp_path: Path) -> None:
    assert "id is missing" in refusal(write_lines(tmp_path / "cuts.jsonl", cut(tmp_path, "")))
    assert "needs a duration" in refusal(write_lines(tmp_path / "cuts.jsonl", cut(tmp_path, duration=None)))
