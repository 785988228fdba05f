"""The files that W&B writes locally, one for each start of a run: `SAVE_DIR/wandb/*-ID/run-ID.wandb`.

A file is a LevelDB log (blocks of 32 KiB; records with checksum, length and kind) after a header of 7 bytes. Each
record is a protocol buffer of `wandb.proto`.
Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from fairseq.logging.metrics_file import Json

HEADER = 7  # bytes: ":W&B", magic number, version
BLOCK = 32768
_RECORD = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4  # kinds of pieces that end a record


def records(path: Path) -> Iterator[bytes]:
    """Yield the whole records of a file; a kill may have cut the last one off."""
    data = path.read_bytes()
    place, pieces = HEADER, b""
    while place + _RECORD.size <= len(data):
        room = BLOCK - place % BLOCK
        if room < _RECORD.size:  # padding at the end of a block
            place += room
            continue
        _, length, kind = _RECORD.unpack_from(data, place)
        place += _RECORD.size
        if kind == 0 or place + length > len(data):
            return
        pieces += data[place : place + length]
        place += length
        if kind in (_FULL, _LAST):
            yield pieces
            pieces = b""


def history(path: Path) -> Iterator[dict[str, Json]]:
    """Yield the rows that were logged, with W&B's own columns, such as _step."""
    from wandb.proto import wandb_internal_pb2

    for data in records(path):
        record = wandb_internal_pb2.Record.FromString(data)  # type: ignore[attr-defined]
        if record.HasField("history"):
            items = record.history.item
            yield {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def parts(folder: Path, run_id: str) -> list[Path]:
    """Find the files of a run, the earliest start first.

    Args:
        folder: the run's `checkpoint.save_dir`.
    """
    found = (folder / "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb")
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))  # then the time of the start
