"""Kaldi's data folders: wav.scp, and segments, text and utt2spk if they are there."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fairseq.corpora.pack.jsonl import Place
from fairseq.corpora.pack.source import Item, Json, Options, Seconds, register_source
from fairseq.text_files import iterate_lines

_WAVS = "wav.scp"
_USUAL_RATE = 16000  # Hz; only for the estimate of the size


@register_source
class Kaldi:
    """The utterances of segments, or without that file, of wav.scp.

    Raises:
        ValueError: a line of a file is malformed, or wav.scp has a pipe or a place in an archive.
    """

    kind = "kaldi"
    prepared = False

    def __init__(self, path: Path, options: Options) -> None:
        if not (path / _WAVS).is_file():
            raise ValueError(f"{path} has no {_WAVS}: it is not a Kaldi data folder.")
        self.path = path
        self._wavs = {name: self._place(value, place) for name, value, place in self._table(_WAVS)}
        self._texts = {name: value for name, value, _ in self._table("text")}
        self._speakers = {name: value for name, value, _ in self._table("utt2spk")}
        self._languages = {name: value for name, value, _ in self._table("utt2lang")}

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / _WAVS).is_file()

    def _table(self, name: str) -> Iterator[tuple[str, str, Place]]:
        """Yield (first column, rest, place) of a file's lines; nothing if the file does not exist."""
        file, seen = self.path / name, set()
        if not file.is_file():
            return
        for number, line in enumerate(iterate_lines(file, f"Kaldi's {name}"), start=1):
            if not line.strip():
                continue
            parts, place = line.split(maxsplit=1), Place(file, number)
            if parts[0] in seen:
                raise place.error(f"{parts[0]} is there twice. Repair it with Kaldi's utils/fix_data_dir.sh.")
            seen.add(parts[0])
            yield parts[0], parts[1].strip() if len(parts) > 1 else "", place

    def _place(self, value: str, place: Place) -> str:
        if value.endswith("|"):
            raise place.error(
                f"a pipe, which would run a command: {value!r}. Write the audio to files first, for example with "
                "Kaldi's wav-copy, and list the files."
            )
        head, colon, offset = value.rpartition(":")
        if not value or value == "-" or (colon and offset.isdecimal() and head.endswith(".ark")):
            raise place.error(f"{value!r} is not the path of an audio file. Archives of Kaldi are not read.")
        below = os.path.join(self.path, value)  # Kaldi: relative to the folder where its scripts run
        return below if os.path.exists(below) else os.path.abspath(value)

    def _segments(self) -> Iterator[tuple[str, str, Seconds | None]]:
        """Yield (utterance, recording, its part)."""
        if not (self.path / "segments").is_file():
            yield from ((name, name, None) for name in self._wavs)
            return
        for name, value, place in self._table("segments"):
            recording, *times = value.split()
            if len(times) < 2:
                raise place.error("a line must be: utterance, recording, start and end in seconds.")
            try:
                start, end = float(times[0]), float(times[1])
            except ValueError:
                start, end = math.nan, math.nan
            if not (0 <= start < math.inf and (end == -1 or start < end < math.inf)):
                raise place.error(f"from {times[0]} to {times[1]} is not a time; the end must be after the start.")
            if recording not in self._wavs:
                raise place.error(f"{_WAVS} has no recording {recording!r}.")
            yield name, recording, Seconds(start, None if end == -1 else round(end - start, 6))

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        for name, recording, seconds in islice(self._segments(), first, None):
            language = self._languages.get(name)
            yield Item(
                origin=name,
                key=name,
                place=self._wavs[recording],
                seconds=seconds,
                text=self._texts.get(name),
                speaker=self._speakers.get(name),
                rest={**_times(recording, seconds), **({} if language is None else {"language": language})},
                size=round((seconds.duration or 0) * _USUAL_RATE) if seconds else 0,
            )


def _times(recording: str, seconds: Seconds | None) -> dict[str, Json]:
    return {} if seconds is None else {"recording": recording, "start": seconds.start, "duration": seconds.duration}
