"""Transcripts as text, JSON, SRT and WebVTT."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from fairseq.inference.transcript import TimedWord, Transcript

FORMATS = ("text", "json", "srt", "vtt")
# limits of a subtitle: duration in s, letters, pause in s that ends it; letters per line
_LONGEST, _LETTERS, _PAUSE, _LINE = 6.0, 84, 0.8, 42


class Subtitle(NamedTuple):
    """Words shown together."""

    start: float
    end: float
    text: str


def write(transcript: Transcript, kind: str) -> str:
    """Return a transcript in one of `FORMATS`, ending with a newline."""
    return {"text": as_text, "json": as_json, "srt": as_srt, "vtt": as_vtt}[kind](transcript)


def as_text(transcript: Transcript) -> str:
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """Return one JSON object on one line; words are {"word", "start", "end", "confidence"}."""
    return json_line(as_dict(transcript))


def json_line(value: Any) -> str:
    """Return a value as one line of JSON that can be encoded as UTF-8.

    Bytes of a file name that are not UTF-8 (lone surrogates in Python) are escaped; `json.loads` restores the same
    name, which opens the file.
    """
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda surrogate: f"\\u{ord(surrogate[0]):04x}", text) + "\n"


def as_dict(transcript: Transcript) -> dict[str, Any]:
    """Return a transcript as plain values, without fields that do not apply."""
    found: dict[str, Any] = {"file": transcript.name, "duration": transcript.duration}
    if transcript.error is not None:
        return {"file": transcript.name, "error": transcript.error}
    found |= {"text": transcript.text, "confidence": transcript.confidence}
    found["words"] = [
        {"word": w.text, "start": w.start, "end": w.end, "confidence": w.confidence} for w in transcript.words
    ]
    if transcript.alternatives:
        found["alternatives"] = transcript.alternatives
    if transcript.note is not None:
        found["note"] = transcript.note
    return found


def as_srt(transcript: Transcript) -> str:
    cues = subtitles(transcript.words)
    blocks = [
        f"{n}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text}\n" for n, cue in enumerate(cues, start=1)
    ]
    return "\n".join(blocks)


def as_vtt(transcript: Transcript) -> str:
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_escaped(cue.text)}\n"
        for cue in subtitles(transcript.words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def subtitles(words: Sequence[TimedWord]) -> list[Subtitle]:
    """Group words into subtitles that end at pauses and are short enough to read."""
    groups: list[list[TimedWord]] = []
    for word in words:
        if groups and not _starts_new(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    return [Subtitle(group[0].start, max(group[-1].end, group[0].start + 0.001), _lines(group)) for group in groups]


def _starts_new(group: Sequence[TimedWord], word: TimedWord) -> bool:
    letters = sum(len(other.text) + 1 for other in group) + len(word.text)
    return word.start - group[-1].end > _PAUSE or word.end - group[0].start > _LONGEST or letters > _LETTERS


def _lines(group: Sequence[TimedWord]) -> str:
    """Join the words, broken into two lines if the text is long."""
    lines = [""]
    for word in group:
        if lines[-1] and len(lines[-1]) + 1 + len(word.text) > _LINE and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word.text}".strip()
    return "\n".join(lines)


def _clock(seconds: float, mark: str) -> str:
    """Format a time as hours:minutes:seconds, then `mark` and milliseconds."""
    total = round(seconds * 1000)
    return f"{total // 3600000:02d}:{total // 60000 % 60:02d}:{total // 1000 % 60:02d}{mark}{total % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
