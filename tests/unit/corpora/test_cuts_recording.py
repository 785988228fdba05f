"""One recording and a whole manifest, with a stand-in for the model: speech is what is loud."""

from __future__ import annotations

import json
import os
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.corpora.cuts import segmenting
from fairseq.corpora.cuts.detector import STEP, Detector
from fairseq.corpora.cuts.recording import Recording, cut
from fairseq.corpora.cuts.settings import CutSettings
from fairseq.corpora.cuts.sound import WINDOW
from fairseq.data.audio.audio_utils import UnreadableAudio
from fairseq_cli import segment as command

SPOKEN = ((2.0, 6.0), (9.0, 12.5), (40.0, 44.0))  # seconds
SECONDS = 50


class LoudIsSpeech(Detector):
    """A stand-in that needs no package."""

    slow = 0.0  # seconds per window

    def __init__(self) -> None:
        self.windows = 0

    def reset(self) -> None:
        self.windows = 0

    def probabilities(self, window: np.ndarray) -> np.ndarray:
        assert len(window) <= WINDOW and len(window) % STEP == 0
        self.windows += 1
        time.sleep(self.slow)
        return (np.abs(window.reshape(-1, STEP)).mean(axis=1) > 0.02).astype(np.float32)


def tone(rate: int, spoken: tuple[tuple[float, float], ...] = SPOKEN, seconds: float = SECONDS) -> np.ndarray:
    time_of = np.arange(round(rate * seconds)) / rate
    loud = sum(((time_of >= first) & (time_of < end)).astype(np.float32) for first, end in spoken)
    return (0.3 * np.sin(2 * np.pi * 300 * time_of) * loud).astype(np.float32)


def seconds_of(found: Recording) -> list[tuple[float, float]]:
    return [(first / found.rate, (first + count) / found.rate) for first, count in found.segments]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(segmenting, "Detector", LoudIsSpeech)
    monkeypatch.setattr(segmenting, "model_file", lambda: "")
    monkeypatch.setattr(segmenting.importlib.metadata, "version", lambda name: "0")
    monkeypatch.setattr("fairseq_cli.command.set_up_logging", lambda: None)  # it would outlive the test
    yield


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (16000, 2), (8000, 1), (44100, 2)])
def test_any_rate_and_number_of_channels(tmp_path: Path, rate: int, channels: int) -> None:
    if rate != 16000:
        pytest.importorskip("soxr")
    wave = np.stack([tone(rate)] * channels, axis=1) * ([1, -1] if channels == 2 else [1])  # opposite polarity
    soundfile.write(tmp_path / "a.wav", wave, rate)
    found = cut(str(tmp_path / "a.wav"), 0, len(wave), LoudIsSpeech(), CutSettings())
    assert (found.rate, found.frames) == (rate, SECONDS * rate)
    for (first, end), (begin, stop) in zip(seconds_of(found), SPOKEN, strict=True):
        assert (first, end) == (pytest.approx(begin - 0.1, abs=0.05), pytest.approx(stop + 0.1, abs=0.05))


def test_a_section_is_counted_from_its_own_beginning(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tone(16000), 16000)
    found = cut(str(tmp_path / "a.flac"), 8 * 16000, 20 * 16000, LoudIsSpeech(), CutSettings())
    assert seconds_of(found) == [(pytest.approx(0.9, abs=0.05), pytest.approx(4.6, abs=0.05))]


def test_the_end_of_the_recording_is_the_end_of_speech(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16000, ((1.0, 5.013),), 5.013), 16000)
    found = cut(str(tmp_path / "a.wav"), 0, 80208, LoudIsSpeech(), CutSettings())
    ((first, count),) = found.segments
    assert first + count == pytest.approx(80208, abs=600) and first + count <= 80208


def test_damaged_recordings_are_named_by_reason(tmp_path: Path) -> None:
    wave = tone(16000)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    with pytest.raises(UnreadableAudio, match="ends after 800000 frames, but 800001 are needed"):
        cut(str(tmp_path / "a.wav"), 0, len(wave) + 1, LoudIsSpeech(), CutSettings())
    wave[700000] = np.nan
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    with pytest.raises(UnreadableAudio, match="not numbers .* at 43.75 s"):
        cut(str(tmp_path / "a.wav"), 0, len(wave), LoudIsSpeech(), CutSettings())


def corpus(folder: Path) -> Path:
    """A file, a member of a zip, a file without speech, one that is no audio, and a short word."""
    soundfile.write(folder / "a.flac", tone(16000), 16000)
    soundfile.write(folder / "b.wav", tone(16000, SPOKEN[:1], 10), 16000)
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.write(folder / "b.wav", "b.wav")
        member = archive.getinfo("b.wav")
    offset = (folder / "b.zip").read_bytes().index(b"RIFF")
    soundfile.write(folder / "c.flac", np.zeros(32000, np.float32), 16000)
    (folder / "d.flac").write_bytes(b"no audio")
    soundfile.write(folder / "e.flac", tone(16000, ((1.0, 1.5),), 3), 16000)
    lines = [
        str(folder),
        "c.flac\t32000",
        "a.flac\t800000",
        "d.flac\t16000",
        f"b.zip:{offset}:{member.file_size}\t160000",
        "e.flac\t48000",
    ]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder / "train.tsv"


def run(manifest: Path, dest: Path, *extra: str) -> int:
    return command.cli_main([str(manifest), "--dest", str(dest), "--workers", "1", *extra])


def test_the_command(tmp_path: Path, stand_in: None, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = corpus(tmp_path)
    assert run(manifest, tmp_path / "out", "--json") == 1, "a recording cannot be read"
    found = json.loads(capsys.readouterr().out)
    assert list(found["unreadable"]) == ["d.flac"]
    assert (found["recordings"], found["segments"], found["pieces_shorter_than_min"]) == (5, 4, 1)
    root, *lines = (tmp_path / "out" / "train.tsv").read_text().splitlines()
    assert root == str(tmp_path)
    columns = [line.split("\t") for line in lines]
    assert [name.partition(":")[0] for name, *_ in columns] == ["a.flac", "a.flac", "a.flac", "b.zip"]
    assert [round(int(start) / 16000, 1) for _, _, start in columns] == pytest.approx([1.9, 8.9, 39.9, 1.9], abs=0.11)
    soundfile.write(tmp_path / "d.flac", tone(16000, ((0.2, 0.8),), 1), 16000)
    assert run(manifest, tmp_path / "out") == 0, "it is tried again"
    assert "segments: 4" in capsys.readouterr().out


@pytest.mark.process
def test_several_processes_write_the_same(tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = corpus(tmp_path)
    monkeypatch.setattr(segmenting, "_TASK", 1)  # each recording is a task
    seen: list[tuple[int, int]] = []
    for workers in (1, 3):
        segmenting.segment(
            str(manifest), str(tmp_path / str(workers)), CutSettings(), workers, lambda *counts: seen.append(counts)
        )
        assert seen[0] == (0, 5) and seen[-1] == (5, 5) and len(seen) > 2
        seen.clear()
    assert (tmp_path / "1/train.tsv").read_bytes() == (tmp_path / "3/train.tsv").read_bytes()


@pytest.mark.process
def test_a_killed_run_continues(tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = corpus(tmp_path)
    segmenting.segment(str(manifest), str(tmp_path / "unbroken"), CutSettings())
    monkeypatch.setattr(segmenting, "_TASK", 1)
    monkeypatch.setattr(LoudIsSpeech, "slow", 0.15)
    journal = tmp_path / "killed" / "train.segments.jsonl"
    child = os.fork()
    if child == 0:
        segmenting.segment(str(manifest), str(tmp_path / "killed"), CutSettings(), 2)
        os._exit(0)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it was not finished"
    assert not (tmp_path / "killed" / "train.tsv").exists()
    found = segmenting.segment(str(manifest), str(tmp_path / "killed"), CutSettings())
    assert 1 <= found.done_before < 5
    assert (tmp_path / "killed/train.tsv").read_bytes() == (tmp_path / "unbroken/train.tsv").read_bytes()


def test_segments_of_segments(tmp_path: Path, stand_in: None) -> None:
    corpus(tmp_path)
    (tmp_path / "parts.tsv").write_text(f"{tmp_path}\na.flac\t320000\t128000\na.flac\t160000\t640000\n")
    segmenting.segment(str(tmp_path / "parts.tsv"), str(tmp_path / "out"), CutSettings())
    _, *lines = (tmp_path / "out" / "parts.tsv").read_text().splitlines()
    starts = [int(line.split("\t")[2]) / 16000 for line in lines]
    assert starts == pytest.approx([8.9, 40.0], abs=0.11)


def test_mistakes_are_found_before_time_is_spent(
    tmp_path: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = corpus(tmp_path)
    assert run(manifest, tmp_path) == 1 and "would be replaced" in capsys.readouterr().err
    assert run(manifest, tmp_path / "out", "--workers", "0") == 1 and "--workers is 0" in capsys.readouterr().err
    assert run(tmp_path / "no.tsv", tmp_path / "out") == 1 and "no.tsv" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"extra vad: pip install 'silero-vad>=6.2.3' onnxruntime soxr"):
        Detector()


def test_the_model_carries_its_state_from_window_to_window() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("silero_vad", reason="extra vad")
    wave = (tone(16000) + 0.01 * np.random.default_rng(0).standard_normal(800000)).astype(np.float32)[: 800 * STEP]
    detector = Detector()
    whole = detector.probabilities(wave)
    detector.reset()
    parts = [detector.probabilities(part) for part in np.split(wave, [7 * STEP, 500 * STEP])]
    assert np.abs(np.concatenate(parts) - whole).max() < 1e-5
    assert np.abs(detector.probabilities(wave) - whole).max() > 1e-3, "without a reset the past counts"
