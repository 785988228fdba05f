"""Utterances in the rows of Arrow tables: parquet files, and data sets that `datasets` saved to disk."""

from __future__ import annotations

import datetime
import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from fairseq.corpora.pack.source import Item, Json, Options
from fairseq.installed import advice

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 64  # rows that are in memory at a time: at 14 s of 16-bit audio, 30 MB
_TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text")
_SPEAKERS = ("speaker", "speaker_id", "client_id", "spk_id")
_KEYS = ("id", "key", "__key__", "utt_id", "utterance_id")


class Columns(NamedTuple):
    """Which column has what."""

    audio: str
    has_path: bool  # the audio column is a struct of bytes and path, as `datasets` writes it
    text: str | None
    speaker: str | None
    key: str | None
    rest: tuple[str, ...]

    def without_audio(self) -> list[str]:
        """Names to read when only the audio's name is wanted, as parquet files call them."""
        named = [name for name in (self.text, self.speaker, self.key) if name is not None]
        return [*named, *self.rest, *([f"{self.audio}.path"] if self.has_path else [])]

    def all(self) -> list[str]:
        return [*(name for name in (self.text, self.speaker, self.key) if name is not None), *self.rest, self.audio]


class Rows(NamedTuple):
    """Where a batch of rows is."""

    file: Path
    folder: Path  # that paths in the rows are relative to
    first: int  # number of the first row in the file
    row_bytes: int  # the average
    stamp: str


def need_pyarrow(what: str, module: str) -> ModuleType:
    """Import a module of pyarrow.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"reading {what} needs the package pyarrow: {advice('hf')}") from error


def find_columns(schema: pa.Schema, options: Options, file: Path) -> Columns:
    """Decide which column has the audio, the text, the speaker and the key.

    Raises:
        ValueError: the audio column is missing, or a column that the user named does not exist.
    """
    names = list(schema.names)
    for option, name in (
        ("--audio-column", options.audio_column),
        ("--text-column", options.text_column),
        ("--speaker-column", options.speaker_column),
        ("--key-column", options.key_column),
    ):
        if name is not None and name not in names:
            raise ValueError(f"{file} has no column {name!r} ({option}). Its columns are {', '.join(names)}.")
    audio = options.audio_column or next((name for name in names if _holds_audio(schema.field(name).type)), None)
    if audio is None or not _holds_audio(schema.field(audio).type):
        raise ValueError(
            f"{file} has no column of audio files' bytes: a column must be binary, or a struct with the field bytes. "
            f"Its columns are {', '.join(names)}. Decoded samples are not read: save the data set with its audio "
            "column not decoded."
        )
    text = options.text_column or _first_of(_TEXTS, names)
    speaker = options.speaker_column or _first_of(_SPEAKERS, names)
    key = options.key_column or _first_of(_KEYS, names)
    used = {audio, text, speaker, key}
    rest = tuple(name for name in names if name not in used and not _holds_audio(schema.field(name).type))
    return Columns(audio, _is_struct(schema.field(audio).type, "path"), text, speaker, key, rest)


def _first_of(wanted: tuple[str, ...], names: list[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _is_struct(kind: pa.DataType, field: str) -> bool:
    types = importlib.import_module("pyarrow.types")
    return types.is_struct(kind) and kind.get_field_index(field) >= 0


def _holds_audio(kind: pa.DataType) -> bool:
    types = importlib.import_module("pyarrow.types")
    return _is_struct(kind, "bytes") or types.is_binary(kind) or types.is_large_binary(kind)


def items_of(batch: pa.RecordBatch, columns: Columns, rows: Rows, audio: bool) -> Iterator[Item]:
    """Yield the utterances of a batch of rows.

    Args:
        batch: the rows; without `audio`, only the audio column's paths are looked at.
        columns: what is where.
        rows: where the rows are.
        audio: whether to read the audio.
    """
    texts = _values(batch, columns.text)
    speakers = _values(batch, columns.speaker)
    keys = _values(batch, columns.key)
    rest = {name: _values(batch, name) for name in columns.rest}
    whole = batch.column(columns.audio) if columns.audio in batch.schema.names else None
    paths = whole.field("path").to_pylist() if whole is not None and columns.has_path else [None] * batch.num_rows
    for number in range(batch.num_rows):
        row = f"{rows.file.name} row {rows.first + number}"
        path = None if paths[number] is None else str(paths[number])
        key = keys[number] if keys[number] is not None else path and str(PurePosixPath(path).with_suffix(""))
        found = _Audio() if whole is None or not audio else _audio(whole, number, path, rows.folder)
        yield Item(
            origin=str(keys[number] if keys[number] is not None else path or row),
            key=f"{rows.file.stem}-{rows.first + number:09d}" if key in (None, "") else str(key),
            place=found.place,
            data=found.data,
            problem=found.problem,
            text=None if texts[number] is None else str(texts[number]),
            speaker=None if speakers[number] is None else str(speakers[number]),
            rest={name: plain(values[number]) for name, values in rest.items() if values[number] is not None},
            size=rows.row_bytes,
            stamp=f"{row} {rows.stamp}",
        )


class _Audio(NamedTuple):
    place: str | None = None
    data: bytes | None = None
    problem: str | None = None


def _audio(column: pa.Array, number: int, path: str | None, folder: Path) -> _Audio:
    cell = column[number]
    data = cell.as_py() if cell.is_valid else None
    if isinstance(data, dict):
        data = data.get("bytes")
    if data is not None:
        return _Audio(data=data)
    if path:
        return _Audio(place=os.path.join(folder, path))
    return _Audio(problem="the row has no audio")


def _values(batch: pa.RecordBatch, name: str | None) -> list[object]:
    return [None] * batch.num_rows if name is None else batch.column(name).to_pylist()


def plain(value: object) -> Json:
    """Convert a value to what JSON can hold; bytes are dropped."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return None
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)


def stamp_of(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
