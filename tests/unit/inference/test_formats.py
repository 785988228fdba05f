"""Transcripts as text, JSON and subtitles."""

from __future__ import annotations

import json

from fairseq.inference.formats import subtitles, write
from fairseq.inference.transcript import TimedWord, Transcript


def words(*parts: tuple[str, float, float]) -> list[TimedWord]:
    return [TimedWord(text, start, end, 0.9) for text, start, end in parts]


SAID = Transcript(
    "a.wav", "HELLO THERE <X>", words(("HELLO", 0.1, 0.5), ("THERE", 0.6, 1.0), ("<X>", 3661.5, 3662.0)), 0.9, 3700.0
)


def test_text() -> None:
    assert write(SAID, "text") == "HELLO THERE <X>\n"


def test_json_has_words_with_times_and_leaves_out_what_does_not_apply() -> None:
    found = json.loads(write(SAID, "json"))
    assert found["words"][1] == {"word": "THERE", "start": 0.6, "end": 1.0, "confidence": 0.9}
    assert set(found) == {"file", "duration", "text", "confidence", "words"}
    assert json.loads(write(Transcript("b.wav", error="broken"), "json")) == {"file": "b.wav", "error": "broken"}
    assert json.loads(write(Transcript("c.wav", note="silence", alternatives=["A"]), "json"))["alternatives"] == ["A"]


def test_srt() -> None:
    assert write(SAID, "srt") == (
        "1\n00:00:00,100 --> 00:00:01,000\nHELLO THERE\n\n2\n01:01:01,500 --> 01:01:02,000\n<X>\n"
    )


def test_vtt_is_escaped() -> None:
    assert write(SAID, "vtt") == (
        "WEBVTT\n\n00:00:00.100 --> 00:00:01.000\nHELLO THERE\n\n01:01:01.500 --> 01:01:02.000\n&lt;X&gt;\n"
    )


def test_nothing_said_is_a_valid_file() -> None:
    assert write(Transcript("a.wav"), "vtt") == "WEBVTT\n" and write(Transcript("a.wav"), "srt") == ""


def test_subtitles_are_short_and_in_at_most_two_lines() -> None:
    cues = subtitles(words(*[(f"WORD{n:02d}", n * 0.4, n * 0.4 + 0.3) for n in range(50)]))
    assert len(cues) > 3 and " ".join(" ".join(cue.text.split()) for cue in cues).split() == [
        f"WORD{n:02d}" for n in range(50)
    ]
    for cue in cues:
        assert cue.end - cue.start <= 6.0 and len(cue.text.split("\n")) <= 2
        assert all(len(line) <= 42 for line in cue.text.split("\n"))
    assert all(first.end <= second.start for first, second in zip(cues, cues[1:], strict=False))
