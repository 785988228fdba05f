"""Alignments as Praat TextGrid, CTM, JSON and subtitles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fairseq.inference import formats
from fairseq.inference.alignment import AlignedUnit, AlignedWord, Alignment

FORMATS = ("textgrid", "ctm", "json", "srt", "vtt")
ENDINGS = {"textgrid": ".TextGrid", "ctm": ".ctm", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
JOINABLE = ("ctm", "json")  # several recordings can be in one file
_CHANNEL = 1


class _Interval(NamedTuple):
    start: float
    end: float
    text: str


def write(alignment: Alignment, kind: str) -> str:
    """Return an alignment in one of `FORMATS`, ending with a newline; "" if it has an error, except as JSON."""
    if alignment.error is not None and kind != "json":
        return ""
    if kind in ("srt", "vtt"):
        return formats.write(alignment.transcript(), kind)
    return {"textgrid": as_textgrid, "ctm": as_ctm, "json": as_json}[kind](alignment)


def as_json(alignment: Alignment) -> str:
    """Return one JSON object on one line; other speech is a word with "star": true."""
    if alignment.error is not None:
        return formats.json_line({"file": alignment.name, "error": alignment.error})
    found: dict[str, object] = {"file": alignment.name, "duration": alignment.duration, "score": alignment.score}
    found["words"] = [_word(word) for word in alignment.words]
    if alignment.notes:
        found["notes"] = alignment.notes
    return formats.json_line(found)


def _word(word: AlignedWord) -> dict[str, object]:
    found: dict[str, object] = {"word": word.text, "start": word.start, "end": word.end, "score": word.score}
    found |= {"confidence": word.confidence, "agreement": word.agreement}
    if word.is_star:
        return {**found, "star": True}
    units = [{"unit": u.text, "start": u.start, "end": u.end, "score": u.score} for u in word.units]
    return {**found, "units": units}


def as_ctm(alignment: Alignment) -> str:
    """Return NIST CTM: `recording channel start duration word confidence`, one line for each word."""
    name = "_".join(alignment.name.split())
    return "".join(
        f"{name} {_CHANNEL} {word.start:.3f} {word.end - word.start:.3f} {word.text} {word.confidence:.4f}\n"
        for word in alignment.words
    )


def as_textgrid(alignment: Alignment) -> str:
    """Return a Praat TextGrid, in its long form, with the tiers `words` and `units`."""
    end = alignment.duration
    tiers = {"words": alignment.words, "units": [unit for word in alignment.words for unit in word.units]}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {_seconds(end)} "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for number, (name, members) in enumerate(tiers.items(), start=1):
        intervals = _covering(members, end)
        lines += [f"    item [{number}]:", '        class = "IntervalTier" ', f'        name = "{name}" ']
        lines += [
            "        xmin = 0 ",
            f"        xmax = {_seconds(end)} ",
            f"        intervals: size = {len(intervals)} ",
        ]
        for n, interval in enumerate(intervals, start=1):
            text = interval.text.replace('"', '""')
            lines += [f"        intervals [{n}]:", f"            xmin = {_seconds(interval.start)} "]
            lines += [f"            xmax = {_seconds(interval.end)} ", f'            text = "{text}" ']
    return "\n".join(lines) + "\n"


def _covering(members: Sequence[AlignedWord] | Sequence[AlignedUnit], end: float) -> list[_Interval]:
    """Return intervals from 0 to the end, with empty ones between the members, as Praat requires."""
    found: list[_Interval] = []
    now = 0.0
    for member in members:
        if member.start > now:
            found.append(_Interval(now, member.start, ""))
        found.append(_Interval(max(now, member.start), member.end, member.text))
        now = member.end
    return [*found, _Interval(now, end, "")] if end > now else found


def _seconds(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") or "0"
