"""fairseq-transcribe as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from fairseq_cli import transcribe
from tests.small_speech import speech


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", speech(1.0, seed=number), 16000)
    (tmp_path / "broken.wav").write_text("no audio")
    return [str(tmp_path / name) for name in ("0.wav", "broken.wav", "1.wav")]


def run(checkpoint: Path, *arguments: str) -> int:
    return transcribe.cli_main(["--path", str(checkpoint), "--precision", "fp32", *arguments])


def test_the_rest_goes_on_and_the_status_tells(
    checkpoint: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, *files) == 1
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == [files[0], files[2]]
    assert "broken.wav cannot be read" in printed.err
    assert run(checkpoint, files[0]) == 0
    assert printed.out.splitlines()[0].split("\t")[1] == capsys.readouterr().out.strip() != ""


def test_without_a_gpu_it_says_so(
    checkpoint: Path, files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert run(checkpoint, files[0], "--device", "cuda") == 1
    assert "--device cuda), but torch finds no GPU on this machine." in capsys.readouterr().err


def test_json_has_a_line_for_every_file(checkpoint: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(checkpoint, *files, "--format", "json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in row for row in rows] == [False, True, False] and rows[0]["words"][0]["end"] <= 1.0


def test_files_are_written_by_name(checkpoint: Path, files: list[str], tmp_path: Path) -> None:
    assert run(checkpoint, files[0], files[2], "--format", "vtt", "--output-dir", str(tmp_path / "out")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.vtt", "1.vtt"]
    assert (tmp_path / "out" / "0.vtt").read_text().startswith("WEBVTT\n\n00:00:0")


def test_two_files_of_one_name_are_refused(
    checkpoint: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, files[0], str(tmp_path / "other" / "0.flac"), "--output-dir", str(tmp_path / "out")) == 1
    assert "would both be written" in capsys.readouterr().err


def test_mistakes_end_plainly(checkpoint: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkpoint.parent / "nowhere.pt", files[0]) == 1
    assert run(checkpoint, files[0], "--overlap", "30") == 1
    assert "and shorter than a window" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_of_several_files_are_not_one_stream(
    checkpoint: Path, files: list[str], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, files[0], files[2], "--format", kind) == 1
    printed = capsys.readouterr()
    assert f"--format {kind} of 2 files requires --output-dir" in printed.err and printed.out == ""
    assert run(checkpoint, files[0], "--format", kind) == 0 and "-->" in capsys.readouterr().out


@pytest.mark.slow
def test_names_of_many_files_are_found_at_once(tmp_path: Path) -> None:
    names = [f"{number}.wav" for number in range(100_000)]  # each compared with all before it, this took an hour
    paths = transcribe.output_paths(names, str(tmp_path), "text")
    assert len(paths) == 100_000 and paths[7] == tmp_path / "7.txt"
    with pytest.raises(ValueError, match="7.wav and a/7.flac would both be written"):
        transcribe.output_paths([*names, "a/7.flac"], str(tmp_path), "text")
