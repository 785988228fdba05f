"""A folder of audio files, with LibriSpeech's transcripts next to them if there are any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fairseq.corpora.pack.source import Item, Options, register_source
from fairseq.data.transcripts import LibriSpeech

EXTENSIONS = ("flac", "wav", "ogg", "opus", "mp3", "aif", "aiff", "au", "sph", "w64", "caf")
_COMPRESSED = {".ogg": 8, ".opus": 12, ".mp3": 6}  # about this many times larger as FLAC


@register_source
class Folder:
    """Audio files at any depth, sorted by name."""

    kind = "folder"
    prepared = False

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        if not path.is_dir():
            raise ValueError(f"{path} is not a folder.")
        self.extensions = options.extensions or EXTENSIONS

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_dir()

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        found, transcripts = False, LibriSpeech()
        for name in islice(find_audio(self.path, self.extensions), first, None):
            found = True
            place = os.path.join(self.path, name)
            size, stamp = _size_and_stamp(place)
            stem, extension = os.path.splitext(name)
            text = transcripts.of(Path(place))
            yield Item(
                origin=name,
                key=stem,
                place=place,
                text=text,
                speaker=None if text is None else os.path.basename(name).partition("-")[0],
                size=size * _COMPRESSED.get(extension.lower(), 1),
                stamp=stamp,
            )
        if not found and first == 0:
            raise ValueError(
                f"{self.path} has no .{', .'.join(self.extensions)} files. Set other extensions with --ext."
            )


def _size_and_stamp(place: str) -> tuple[int, str]:
    try:
        status = os.stat(place)
    except OSError:  # a link to nowhere is left out when it is read
        return 0, ""
    return status.st_size, f"{status.st_size} {status.st_mtime_ns}"


def find_audio(folder: Path, extensions: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of audio files relative to the folder, in order; names that begin with a dot are skipped.

    Links are followed; each folder is entered once.

    Raises:
        ValueError: a folder cannot be read.
    """
    suffixes = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)
    entered: set[str] = set()

    def refuse(error: OSError) -> None:
        raise ValueError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(place, folder)
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield name if below == "." else os.path.join(below, name)
