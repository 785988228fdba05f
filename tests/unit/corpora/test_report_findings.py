"""The whole report on small corpora: lines that findings name, forms of manifests, files that it writes."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.corpora.report import report as report_module
from fairseq.corpora.report.batches import BatchSettings, plan
from fairseq.corpora.report.describing import names_of
from fairseq.corpora.report.records import SHOWN, Hits, seconds_histogram
from fairseq.corpora.report.report import DataReport, ReportSettings, make_report
from fairseq.corpora.report.terminal import as_json, as_text
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.options import BatchLimits
from fairseq_cli import data_report
from tests.drills.planted_faults import found_in, no_bars, report_on, table
from tests.planted import FAULTS, make
from tests.unit.corpora.signals import RATE, speech


def write(path: Path, wave: np.ndarray, rate: int = RATE) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype="PCM_16")
    return len(wave)


def manifest(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join([str(path.parent), *lines]) + "\n", encoding="utf-8", errors="surrogateescape")
    return str(path)


def corpus(folder: Path, name: str, seeds: range, seconds: float = 3.0) -> str:
    lines = [
        f"{name}/{seed}-1-0.flac\t{write(folder / name / f'{seed}-1-0.flac', speech(seconds, seed))}" for seed in seeds
    ]
    return manifest(folder / f"{name}.tsv", lines)


def report_of(*manifests: str, valid: tuple[str, ...] = (), decode: str = "all", workers: int = 1) -> DataReport:
    return make_report(ReportSettings(manifests, valid, decode, workers), no_bars)


def lines_of(report: DataReport) -> dict[str, list[str]]:
    return {finding.name: [line.text().rpartition("/")[2] for line in finding.lines] for finding in report.findings}


def test_a_healthy_corpus(tmp_path: Path) -> None:
    train, valid = corpus(tmp_path, "train", range(6)), corpus(tmp_path, "valid", range(6, 8))
    report = report_of(train, valid=(valid,))
    assert report.findings == [] and [each.speakers for each in report.corpora] == [6, 2]
    first = report.corpora[0]
    assert first.headers.total_seconds == 18 and first.sounds.decoded == 6
    assert "Nothing found" in as_text(report)
    values = json.loads(json.dumps(as_json(report)))
    assert values["corpora"][0]["hours"] == pytest.approx(18 / 3600)
    assert values["corpora"][0]["codecs"] == {"FLAC PCM_16": 6}


@pytest.mark.slow
def test_planted_faults(shared_dir: Path, tmp_path: Path) -> None:
    made = make(shared_dir / "data", tmp_path, len(FAULTS) * 2, 3)
    rows: list[str] = []
    wrong = table(made.planted, found_in(report_on(made)), rows.append)
    assert wrong == 0, "\n".join(rows)


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "PART", 2)
    train = corpus(tmp_path, "train", range(10), 1.6)
    copied = tmp_path / "train" / "copy.flac"
    copied.write_bytes((tmp_path / "train/3-1-0.flac").read_bytes())
    Path(train).write_text(f"{Path(train).read_text()}train/copy.flac\t25600\ntrain/none.flac\t25600\n")
    one, two = report_of(train), report_of(train, workers=2)
    assert json.dumps(as_json(one)) == json.dumps(as_json(two)) and as_text(one) == as_text(two)
    assert set(lines_of(one)) == {"missing", "duplicate"}


def test_a_sample_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "SAMPLE", 3)
    report = report_of(corpus(tmp_path, "train", range(7), 1.6), decode="sample")
    assert report.corpora[0].sounds.decoded == 3 and report.notes[0].startswith("3 of 7 utterances were decoded")
    assert report_of(str(tmp_path / "train.tsv"), decode="none").notes[0].startswith("No audio was decoded")


def test_corpora_of_one_name_have_their_paths(tmp_path: Path) -> None:
    paths = [corpus(tmp_path / folder, "train", seeds, 1.6) for folder, seeds in (("a", range(2)), ("b", range(2, 5)))]
    report = report_of(*paths)
    assert names_of(report) == paths and report.findings == []
    assert [len(description.corpus) for description in report.corpora] == [2, 3]


def test_the_speaker_in_fairseq_packs_sidecar(tmp_path: Path) -> None:
    train, valid = corpus(tmp_path, "train", range(2), 1.6), corpus(tmp_path, "valid", range(2, 4), 1.6)
    for name in ("train", "valid"):
        lines = [{"speaker": f"{name}-1", "origin": "5-1-0.wav"}, {"origin": "a/77-1-0.wav"}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (finding,) = report_of(train, valid=(valid,)).findings
    assert finding.name == "speakers-in-valid" and finding.count == 1 and "speaker 77" in finding.lines[0].evidence
    (tmp_path / "train.jsonl").write_text("{")
    with pytest.raises(ValueError, match="train.jsonl, line 1: not JSON"):
        report_of(train)


@pytest.mark.parametrize("decode", ["all", "none"])
def test_copies_and_speakers_in_valid(tmp_path: Path, decode: str) -> None:
    train = corpus(tmp_path, "train", range(4), 1.6)
    valid = corpus(tmp_path, "valid", range(3, 6), 1.6)
    found = lines_of(report_of(train, valid=(valid,), decode=decode))
    assert list(found) == ["train-in-valid", "speakers-in-valid"]
    same = "the same bytes" if decode == "none" else "the same samples"
    assert (
        found["train-in-valid"] == ["3-1-0.flac)"]
        and same in report_of(train, valid=(valid,), decode=decode).findings[0].lines[0].text()
    )


def test_equal_begin_middle_and_end_are_not_a_copy(tmp_path: Path) -> None:
    data = np.arange(200_000, dtype=np.int16)
    other = data.copy()
    other[30_000] += 1  # outside of what the quick key reads
    for name, samples in (("a", data), ("b", other), ("c", data)):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
    path = manifest(tmp_path / "train.tsv", [f"{name}.wav\t200000" for name in "abc"])
    assert lines_of(report_of(path, decode="none")) == {"duplicate": ["train.tsv:2: a.wav)"]}


def test_members_of_a_stored_zip(tmp_path: Path) -> None:
    write(tmp_path / "a.flac", speech(2, 1))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "a.flac", "a.flac")
        archive.writestr("b.txt", "no audio" * 100)
        members = [(info.header_offset + 30 + len(info.filename), info.file_size) for info in archive.infolist()]
    lines = [f"all.zip:{offset}:{size}\t32000" for offset, size in members]
    report = report_of(manifest(tmp_path / "train.tsv", [*lines, "none.zip:0:100\t32000", lines[0]]))
    assert {name: len(found) for name, found in lines_of(report).items()} == {
        "missing": 1,
        "unreadable": 1,
        "duplicate": 1,
    }


def test_names_with_control_characters_stay_on_one_line(tmp_path: Path) -> None:
    report = report_of(manifest(tmp_path / "train.tsv", ["red\x1b[31m.flac\t100", "caf\udce9.flac\t100"]))
    assert lines_of(report)["missing"] == ["train.tsv:2: red\\u001b[31m.flac", "train.tsv:3: caf\\xe9.flac"]


def test_only_the_first_lines_are_kept(tmp_path: Path) -> None:
    report = report_of(manifest(tmp_path / "train.tsv", [f"{i}.flac\t100" for i in range(300)]))
    (finding,) = report.findings
    assert finding.count == 300 and [line.number for line in finding.lines] == list(range(2, 2 + SHOWN))
    assert "and 295 more" in as_text(report)


def test_a_missing_root_is_one_finding(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("/none/of/these\na.flac\t100\nb.flac\t100\n")
    (finding,) = report_of(str(tmp_path / "train.tsv")).findings
    assert finding.name == "manifest-root" and "train.tsv, line 1" in finding.title


def test_an_empty_manifest(tmp_path: Path) -> None:
    report = report_of(manifest(tmp_path / "train.tsv", []))
    assert report.findings == [] and "utterances" in as_text(report) and as_json(report)["corpora"]


def test_odd_files_are_findings(tmp_path: Path) -> None:
    (tmp_path / "folder.flac").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "empty.flac").touch()
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    names = ("folder.flac", "pipe.wav", "empty.flac", "nan.wav", "long" * 100, "a/" * 3000)
    report = report_of(manifest(tmp_path / "train.tsv", [f"{name}\t16000" for name in names]))
    found = {finding.name: finding.count for finding in report.findings}
    assert found == {"unreadable": 5, "undecodable": 1}


@pytest.mark.parametrize("form", ["flac", "wav", "ogg", "mp3"])
def test_damaged_files_are_findings(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(5)
    soundfile.write(tmp_path / f"whole.{form}", speech(1, 1), RATE)
    data = (tmp_path / f"whole.{form}").read_bytes()
    for number in range(20):
        damaged = bytearray(data[: int(rng.integers(1, len(data)))] if number % 2 else data)
        for _ in range(8):
            damaged[int(rng.integers(min(len(damaged), 200 if number % 3 else 1 << 30)))] = int(rng.integers(256))
        (tmp_path / f"{number}.{form}").write_bytes(bytes(damaged))
    path = manifest(tmp_path / "train.tsv", [f"{number}.{form}\t16000" for number in range(20)])
    assert {finding.severity for finding in report_of(path).findings} >= {"error"}


def test_hits_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(1)
    ascending, mixed = Hits(), Hits()
    for number in range(500):
        ascending.add(number, "")
    for number in rng.permutation(500).tolist():
        mixed.add(number, "")
    assert ascending.shown() == mixed.shown() and ascending.count == mixed.count == 500


def test_percentiles_of_a_histogram() -> None:
    values = np.random.default_rng(1).gamma(4, 3, 10_000)
    histogram = seconds_histogram()
    histogram.add(values)
    for percent in (1, 50, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(values, percent), abs=0.25)
    edges, counts = histogram.coarse(40)
    assert len(counts) <= 41 and counts.sum() == 10_000 and (histogram.within(edges) == counts).all()


def test_batches_are_those_of_training(tmp_path: Path) -> None:
    sizes = np.random.default_rng(2).integers(20_000, 300_000, 400)
    path = manifest(tmp_path / "train.tsv", [f"{i}.flac\t{size}" for i, size in enumerate(sizes)])
    for buckets in (0, 5):
        settings = BatchSettings(num_batch_buckets=buckets)
        dataset = FileAudioDataset(
            path, RATE, max_sample_size=250_000, min_sample_size=32_000, pad=buckets > 0, num_buckets=buckets
        )
        batches = dataset.batches(1, BatchLimits(max_tokens=1_400_000))
        summary = plan(sizes, settings, RATE)
        assert summary is not None and summary.batches == len(batches) and summary.left_out == dataset.skipped
        emitted = int((batches.rows * batches.lengths).sum())
        assert summary.padding == pytest.approx(1 - dataset.total_samples(batches, 1) / emitted)
    assert plan(np.full(3, 100), BatchSettings(), RATE) is None


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("youplot", reason="extra report")
    train = corpus(tmp_path, "train", range(2))
    outputs = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    assert data_report.cli_main([train, "--workers", "1", *outputs]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["verdict"].startswith("Nothing found")
    page = (tmp_path / "r.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "Lengths of utterances" in page
    assert "Nothing found" in capsys.readouterr().out
    Path(train).write_text(f"{Path(train).read_text()}none.flac\t100\n")
    assert data_report.cli_main([train, "--workers", "1", "--decode", "none"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers is 0"),
        (["--speaker-pattern", "("], "is not a regular expression"),
        (["--speaker-pattern", "a"], "has no group"),
        (["--max-tokens", "100"], "--max-tokens is 100"),
        (["--num-batch-buckets", "-1"], "--num-batch-buckets is -1"),
        (["--json", "/"], "--json / is a folder"),
        (["--html", "none/r.html"], "--html none/r.html cannot be written: none is not a folder"),
    ],
)
def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    train = manifest(tmp_path / "train.tsv", ["a.flac\t100"])
    assert data_report.cli_main([train, *words]) == 1
    assert message in capsys.readouterr().err


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("youplot", reason="extra report")
    train, page = corpus(tmp_path, "train", range(1)), tmp_path / "r.html"
    page.write_text("the one before")

    def interrupted(report: DataReport) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_report, "data_page", interrupted)
    assert data_report.cli_main([train, "--workers", "1", "--html", str(page)]) == 130
    assert page.read_text() == "the one before" and sorted(path.name for path in tmp_path.glob("r.*")) == ["r.html"]
    assert "interrupted" in capsys.readouterr().err
