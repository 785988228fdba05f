"""NeMo's manifests: a JSON object on each line, with audio_filepath, duration, offset and text.

A manifest of tarred audio has shard_id on each line, and its archives are next to it: audio_SHARD.tar.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fairseq.corpora.pack import jsonl
from fairseq.corpora.pack.source import Item, Options, Seconds, register_source

_KNOWN = {"audio_filepath", "text", "speaker"}
_USUAL_RATE = 16000  # Hz; only for the estimate of the size


@register_source
class Nemo:
    """Lines of a manifest. Paths are relative to the manifest's folder."""

    kind = "nemo"
    prepared = False

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self._members: dict[str, dict[str, str]] = {}  # archive -> member -> place

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file() and "audio_filepath" in jsonl.first_object(path)

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        for place, facts in islice(jsonl.objects(self.path, "the NeMo manifest"), first, None):
            name = facts.get("audio_filepath")
            if not isinstance(name, str) or not name:
                raise place.error("audio_filepath is missing; it must be the path of an audio file.")
            offset = jsonl.number(facts, "offset", place)
            duration = jsonl.number(facts, "duration", place)
            stem = os.path.splitext(name)[0].lstrip("/")
            yield Item(
                origin=name if offset is None else f"{name} from {offset:g} s",
                key=stem if offset is None else f"{stem}-{round(offset * 1000):08d}",
                place=self._place(name, facts, place),
                seconds=None if duration is None and not offset else Seconds(offset or 0.0, duration),
                text=jsonl.text(facts, "text"),
                speaker=jsonl.text(facts, "speaker"),
                rest={key: value for key, value in facts.items() if key not in _KNOWN},
                size=round((duration or 0) * _USUAL_RATE),
            )

    def _place(self, name: str, facts: jsonl.Facts, line: jsonl.Place) -> str:
        shard = facts.get("shard_id")
        if shard is None:
            return os.path.join(self.path.parent, os.path.expanduser(name))
        archive = os.path.join(self.path.parent, f"audio_{shard}.tar")
        if archive not in self._members:
            self._members = {archive: _members_of(archive, line)}  # lines are in the order of the archives
        if name not in self._members[archive]:
            raise line.error(f"{archive} has no member {name!r}.")
        return self._members[archive][name]


def _members_of(archive: str, line: jsonl.Place) -> dict[str, str]:
    """Return the place of each member of an uncompressed tar archive."""
    try:
        with tarfile.open(archive, "r:") as tar:
            return {member.name: f"{archive}:{member.offset_data}:{member.size}" for member in tar if member.isfile()}
    except (OSError, tarfile.TarError) as error:
        raise line.error(
            f"cannot read the archive {archive} ({error}). It must be an uncompressed tar file next to the manifest."
        ) from error
