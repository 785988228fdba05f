"""Alignments of audio: times, formats, segments, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.corpora.cuts.settings import CutSettings
from fairseq.data.audio.manifest import Manifest
from fairseq.inference import alignment
from fairseq.inference.alignment import AlignedUnit, AlignedWord, Alignment, align, widened
from fairseq.inference.alignment_cuts import Kept, SegmentWriter, TextSegment, segments_of
from fairseq.inference.alignment_formats import write
from fairseq.inference.model import SpeechModel
from fairseq.inference.windows import WindowSettings
from fairseq_cli import align as command


def noise(seconds: float, seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=int(16000 * seconds))).astype(np.float32)


def word(text: str, start: float, end: float, agreement: float = 0.9) -> AlignedWord:
    units = (AlignedUnit(text[0], start, start + 0.02, -0.1), AlignedUnit(text[-1], end - 0.02, end, -0.3))
    return AlignedWord(text, text.upper(), start, end, -0.2, 0.8187, agreement, units)


SAID = Alignment("a b.wav", 3.0, [word('x"y', 0.5, 1.0), word("<star>", 1.2, 2.0), word("z", 2.0, 2.5)], -12.5)


# -- audio -------------------------------------------------------------------------------------------------------------


def test_words_are_in_order_and_within_the_audio(model: SpeechModel) -> None:
    found = align(model, noise(4, 1), "A cab,\nto be", missing="drop")
    assert [w.text for w in found.words] == ["A", "cab,", "to", "be"]
    assert [w.normal for w in found.words] == ["A", "CAB", "T", "BE"]
    times = [time for w in found.words for unit in w.units for time in (unit.start, unit.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= found.duration == 4.0
    assert found.notes == ["characters without a sound, left out: , (1)", found.notes[1]] and "O (1)" in found.notes[1]


def test_words_reach_into_the_blanks_beside_them() -> None:
    words = widened([word("ab", 0.5, 1.0), word("cd", 1.06, 1.2), word("ef", 2.0, 2.5), word("gh", 2.5, 2.6)], 2.65)
    assert [(w.start, w.end) for w in words] == [(0.4, 1.03), (1.03, 1.3), (1.9, 2.5), (2.5, 2.65)]
    assert [(w.units[0].start, w.units[-1].end) for w in words] == [(w.start, w.end) for w in words]
    assert widened([], 1.0) == [] and widened([word("ab", 0.0, 1.0)], 1.0) == [word("ab", 0.0, 1.0)]


def test_alignments_are_widened(model: SpeechModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = align(model, noise(4, 1), "a cab bet")
    with monkeypatch.context() as patched:
        patched.setattr(alignment, "EDGE", 0.0)
        narrow = align(model, noise(4, 1), "a cab bet")
    assert wide.words != narrow.words and wide.words == widened(narrow.words, 4.0)


def test_windows_change_the_outputs_only(model: SpeechModel) -> None:
    """Windows longer than the audio are the audio as a whole."""
    wave, text = noise(6, 2), "cab beat a bet"
    whole = align(model, wave, text, windows=WindowSettings(60, 5))
    assert whole == align(model, wave, text, windows=WindowSettings(6, 1))
    cut = align(model, wave, text, windows=WindowSettings(2, 0.5))
    assert [w.text for w in cut.words] == [w.text for w in whole.words] and cut.duration == whole.duration


def test_too_much_text(model: SpeechModel) -> None:
    with pytest.raises(ValueError, match=r"the text needs at least .* frames"):
        align(model, noise(0.5, 1), "cab " * 30)


# -- formats -----------------------------------------------------------------------------------------------------------


def test_json() -> None:
    found = json.loads(write(SAID, "json"))
    assert {"file": "a b.wav", "duration": 3.0, "score": -12.5}.items() <= found.items()
    assert found["words"][0]["units"][0] == {"unit": "x", "start": 0.5, "end": 0.52, "score": -0.1}
    assert [w.get("star", False) for w in found["words"]] == [False, True, False]
    assert json.loads(write(Alignment("b", error="broken"), "json")) == {"file": "b", "error": "broken"}


def test_ctm() -> None:
    lines = write(SAID, "ctm").splitlines()
    assert lines[0] == 'a_b.wav 1 0.500 0.500 x"y 0.8187' and len(lines) == 3
    assert write(Alignment("b", error="broken"), "ctm") == ""


def test_subtitles_have_no_stars() -> None:
    assert write(SAID, "srt") == '1\n00:00:00,500 --> 00:00:01,000\nx"y\n\n2\n00:00:02,000 --> 00:00:02,500\nz\n'
    assert "<star>" not in write(SAID, "vtt") and "&lt;" not in write(SAID, "vtt")


def test_textgrid_covers_the_recording_without_gaps() -> None:
    text = write(SAID, "textgrid")
    tiers = text.split("    item [")[1:]
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = 3 \n')
    assert len(tiers) == 2 and 'text = "x""y"' in tiers[0]
    for tier in tiers:
        values = [line.split("=")[1].strip() for line in tier.splitlines() if line.strip().startswith("xm")]
        bounds = [float(value) for value in values[2:]]  # after the tier's own
        assert bounds[0] == 0 and bounds[-1] == 3 and bounds[1:-1:2] == bounds[2::2]
        assert all(first < second for first, second in zip(bounds[::2], bounds[1::2], strict=True))


# -- segments ----------------------------------------------------------------------------------------------------------


def spoken(pauses: list[float]) -> Alignment:
    """Words of 0.8 s, each after its pause."""
    words, now = [], 0.0
    for number, pause in enumerate(pauses):
        words.append(word(f"w{number}", now + pause, now + pause + 0.8))
        now += pause + 0.8
    return Alignment("a.wav", now + 1.0, words)


def cut(alignment: Alignment, min_agreement: float = 0.0) -> tuple[list[TextSegment], Kept]:
    kept = Kept()
    return segments_of(alignment, CutSettings(2.0, 8.0, join=1.0), min_agreement, kept), kept


def test_cuts_are_at_pauses() -> None:
    alignment = spoken([0.3, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.1, 2.0, 0.1, 0.1, 0.1])
    found, kept = cut(alignment)
    assert [segment.text for segment in found] == ["W0 W1 W2 W3", "W4 W5 W6 W7 W8", "W9 W10 W11 W12"]
    assert found[0].start == pytest.approx(0.2) and found[0].end == pytest.approx(alignment.words[3].end + 0.1)
    assert kept.segments == 3 and kept.total == alignment.duration and not kept.left_out


def test_every_word_is_in_one_segment_at_most_and_whole() -> None:
    rng = np.random.default_rng(1)
    alignment = spoken(rng.choice([0.02, 0.1, 0.3, 0.7, 3.0], 120).tolist())
    found, _ = cut(alignment)
    words = [w for segment in found for w in segment.words]
    assert len(set(words)) == len(words) > 80
    for segment in found:
        assert 2.0 <= segment.end - segment.start <= 8.0
        assert all(segment.start <= w.start and w.end <= segment.end for w in segment.words)
        inside = [w for w in alignment.words if w.start < segment.end and w.end > segment.start]
        assert inside == list(segment.words)  # no part of another word
    assert all(first.end <= second.start for first, second in zip(found, found[1:], strict=False))


def test_other_speech_and_doubtful_words_are_in_no_segment() -> None:
    alignment = spoken([0.1] * 12)
    alignment.words[5] = alignment.words[5]._replace(normal="W<star>")
    found, kept = cut(alignment)
    star = alignment.words[5]
    assert found and all(segment.end <= star.start or segment.start >= star.end for segment in found)
    alignment.words[0] = alignment.words[0]._replace(agreement=0.1)
    fewer, kept = cut(alignment, 0.5)
    assert len(fewer) == len(found) - 1 and kept.left_out["below --min-agreement"] > 2


def test_segments_are_in_the_files_own_samples(tmp_path: Path, model: SpeechModel) -> None:
    writer = SegmentWriter(tmp_path, "train", "/root", model.dictionary())
    writer.add("a.wav", 1000, 8000, [TextSegment(0.5, 3.0, (word("ab", 1, 2), word("c", 2, 3)))])
    assert writer.write() == tmp_path / "train.tsv"
    assert (tmp_path / "train.tsv").read_text() == "/root\na.wav\t20000\t5000\n"
    assert (tmp_path / "train.ltr").read_text() == "A B | C |\n" and (tmp_path / "train.wrd").read_text() == "AB C\n"


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for number, seconds in enumerate((3.0, 2.0, 1.0)):
        soundfile.write(tmp_path / f"{number}.wav", noise(seconds, number), 16000)
    lines = ["0.wav\t32000\t16000", "1.wav\t32000\t0", "2.wav\t16000\t0"]
    (tmp_path / "train.tsv").write_text("\n".join([str(tmp_path), *lines]) + "\n")
    (tmp_path / "train.ltr").write_text("C A B | A |\nB E |\n" + "B E A T | " * 20 + "\n")
    return tmp_path


def run(checkpoint: Path, *arguments: object) -> int:
    return command.cli_main(["--path", str(checkpoint), "--precision", "fp32", *map(str, arguments)])


def test_a_manifest_with_its_labels(checkpoint: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkpoint, corpus / "train.tsv", "--format", "json") == 1  # the last one has too much text
    output = capsys.readouterr()
    rows = [json.loads(line) for line in output.out.splitlines()]
    assert [row["file"] for row in rows] == ["0.wav:16000-48000", "1.wav:0-32000", "2.wav:0-16000"]
    assert [w["word"] for w in rows[0]["words"]] == ["CAB", "A"] and rows[0]["duration"] == 2.0
    assert "the text needs at least" in rows[2]["error"] and "fairseq-align: error: 2.wav:0-16000" in output.err


def test_files_and_segments(checkpoint: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--format", "textgrid", "--output-dir", corpus / "grids", "--cut", corpus / "cut"]
    run(checkpoint, corpus / "train.tsv", *options, "--min", 0.5, "--max", 3, "--pad", 0.05)
    assert sorted(path.name for path in (corpus / "grids").iterdir()) == [
        "0.wav_16000-48000.TextGrid",
        "1.wav_0-32000.TextGrid",
    ]
    segments = Manifest(corpus / "cut/train.tsv")
    texts = (corpus / "cut/train.wrd").read_text().splitlines()
    assert len(segments) == len(texts) >= 1 and segments.starts is not None
    assert segments.starts[0] >= 16000 and segments.starts[0] + segments.sizes[0] <= 48000
    assert f"segments: {len(texts)}" in capsys.readouterr().out


def test_one_recording(checkpoint: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "text.txt").write_text("Cab,\n<star>\nbeat!\n")
    assert run(checkpoint, corpus / "0.wav", corpus / "text.txt") == 0
    words = [line.split()[4] for line in capsys.readouterr().out.splitlines()]
    assert words == ["Cab,", "<star>", "beat!"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0.wav"], "there is no text for"),
        (["0.wav", "nothing.txt"], "cannot read the text"),
        (["train.tsv", "short.wrd"], "has 1 lines, but"),
        (["train.tsv", "odd.wrd"], r"odd.wrd, line 2 has characters .*'Q'"),
        (["train.tsv", "--format", "srt"], "requires --output-dir"),
        (["train.tsv", "--cut", "."], "Choose another one"),
        (["train.tsv", "--min-agreement", "2"], "must be from 0 to 1"),
        (["other.tsv"], "neither .*other.wrd nor .*other.ltr exists"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(corpus)
    (corpus / "short.wrd").write_text("A\n")
    (corpus / "odd.wrd").write_text("A\nB Q\nA\n")
    (corpus / "other.tsv").write_text((corpus / "train.tsv").read_text())
    assert run(checkpoint, *arguments) == 1
    output = capsys.readouterr()
    assert output.out == "" and "Traceback" not in output.err
    assert re.search(message, output.err), output.err
