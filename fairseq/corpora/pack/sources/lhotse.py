"""Cuts of Lhotse: a JSON object on each line.

A cut that is a plain part of a recording is read directly: it is a place, a start and a number of samples, so it needs
no other package, and is read by the same code as everything else. A cut that is more than that, such as mixed or
augmented audio, one channel of several, or audio kept in memory, is decoded by Lhotse itself (extra `lhotse`).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from fairseq.corpora.pack import jsonl
from fairseq.corpora.pack.source import Item, Json, Options, Wave, register_source
from fairseq.data.audio.audio_utils import UnreadableAudio
from fairseq.installed import advice

_CUTS = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut", "Cut")


@register_source
class Lhotse:
    """A manifest of cuts, .jsonl or .jsonl.gz."""

    kind = "lhotse"
    prepared = False

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if not path.is_file():
            return False
        facts = jsonl.first_object(path)
        return facts.get("type") in _CUTS or ("recording" in facts and "start" in facts)

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        for place, facts in islice(jsonl.objects(self.path, "Lhotse's cuts"), first, None):
            yield item_of(facts, place)


def item_of(facts: jsonl.Facts, place: jsonl.Place) -> Item:
    """Convert a cut.

    Raises:
        ValueError: it is not a cut, or it needs Lhotse, which is not installed.
    """
    key = jsonl.text(facts, "id")
    if not key:
        raise place.error("id is missing: it is not a cut of Lhotse.")
    spoken = _objects(facts.get("supervisions"))
    texts = [str(one["text"]) for one in spoken if one.get("text")]
    known = Item(
        origin=key,
        key=key,
        text=" ".join(texts) if texts else None,
        speaker=_common(spoken, "speaker"),
        rest=_rest(facts, spoken),
    )
    recording = plain_recording(facts)
    if recording is None:
        _check_lhotse(place)
        line = json.dumps(facts, sort_keys=True)
        return replace(known, load=Cut(line), stamp=line)
    rate = jsonl.number(recording, "sampling_rate", place)
    start, duration = jsonl.number(facts, "start", place, 0.0), jsonl.number(facts, "duration", place)
    file = _objects(recording.get("sources"))[0].get("source")
    if not rate or duration is None or not isinstance(file, str) or not file:
        raise place.error("the cut needs a duration, and its recording a sampling_rate and a source.")
    first, frames = samples(start or 0.0, rate), samples(duration, rate)
    total = jsonl.number(recording, "num_samples", place)
    if total and first + frames >= total:  # more: rounding
        frames = -1
    return replace(known, place=_found(file, place.file), start=first, frames=frames, size=samples(duration, rate))


def plain_recording(facts: jsonl.Facts) -> jsonl.Facts | None:
    """Return the recording of a cut that is a part of one mono file, unchanged; None if Lhotse must decode it."""
    recording = facts.get("recording")
    if facts.get("type", "MonoCut") not in ("MonoCut", "Cut") or not isinstance(recording, dict):
        return None
    sources = _objects(recording.get("sources"))
    if len(sources) != 1 or sources[0].get("type") not in ("file", "url") or sources[0].get("channels") != [0]:
        return None
    changed = recording.get("transforms") or facts.get("transforms")
    return None if changed else recording


def samples(seconds: float, rate: float) -> int:
    """Convert a time to samples as Lhotse does: halves are rounded up."""
    return math.floor(round(seconds * rate, 8) + 0.5)


@dataclass(frozen=True)
class Cut:
    """A cut that Lhotse decodes.

    Args:
        line: the cut as JSON.
    """

    line: str

    def __call__(self) -> Wave:
        """Decode the cut; several channels are averaged.

        Raises:
            UnreadableAudio: Lhotse cannot decode it.
        """
        deserialize_item = importlib.import_module("lhotse.serialization").deserialize_item
        try:
            cut = deserialize_item(json.loads(self.line))
            loaded = np.atleast_2d(cut.load_audio())
        except Exception as error:  # of any of Lhotse's readers
            raise UnreadableAudio(f"Lhotse cannot decode the cut: {' '.join(str(error).split())[:300]}") from error
        return Wave(loaded.mean(axis=0, dtype=np.float32), int(cut.sampling_rate))


def _check_lhotse(place: jsonl.Place) -> None:
    if importlib.util.find_spec("lhotse") is None:
        raise place.error(
            "the cut is not a plain part of a mono recording, so the package lhotse must decode it, but it is not "
            f"installed: {advice('lhotse')}"
        )


def _found(file: str, manifest: Path) -> str:
    """Return a source's place; a relative path is relative to the manifest's folder, or else to the current one."""
    if "://" in file:
        return file
    below = os.path.join(manifest.parent, os.path.expanduser(file))
    return below if os.path.exists(below) else os.path.abspath(file)


def _objects(value: Json) -> list[jsonl.Facts]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _common(spoken: list[jsonl.Facts], name: str) -> str | None:
    """Return the value that all supervisions have in this field; None if they differ or have none."""
    values = {str(one[name]) for one in spoken if one.get(name) is not None}
    return values.pop() if len(values) == 1 else None


def _rest(facts: jsonl.Facts, spoken: list[jsonl.Facts]) -> dict[str, Json]:
    rest: dict[str, Json] = {}
    for custom in (*(one.get("custom") for one in spoken), facts.get("custom")):
        if isinstance(custom, dict):
            rest.update(custom)
    rest.update({name: value for name in ("language", "gender") if (value := _common(spoken, name)) is not None})
    recording = facts.get("recording")
    if isinstance(recording, dict) and recording.get("id"):
        rest["recording"] = recording["id"]
    return rest
