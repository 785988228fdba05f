"""Feature files: .npy or .parquet for each audio file, written atomically."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.installed import advice
from fairseq.utils import make_folder

logger = logging.getLogger(__name__)

KINDS = ("npy", "parquet")
_NOTE = "extract.json"
_LOCK = "extract.lock"


def check_kind(kind: str) -> str:
    """Return `kind` if it can be written.

    Raises:
        ValueError: `kind` is not one of `KINDS`, or needs a package that is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"the format is {kind!r}; it must be one of: {', '.join(KINDS)}")
    if kind == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ValueError(f"--format parquet needs pyarrow: {advice('parquet')}") from error
    return kind


def target(folder: Path, name: str, kind: str) -> Path:
    """Return the output path of an audio file: its manifest path with a new extension, always inside `folder`."""
    parts = [part for part in Path(name).parts if part not in ("/", "..", ".")]
    path = folder.joinpath(*parts)
    # archive.zip:offset:length
    return path.with_name(f"{path.name}.{kind}") if ":" in path.name else path.with_suffix(f".{kind}")


def outputs(path: Path, names: Sequence[str]) -> list[Path]:
    """Return all files that `write` creates for a recording with target `path` and these features."""
    return (
        [path]
        if path.suffix != ".npy"
        else [_npy_path(path, name, alone=len(names) == 1) for name in ("seconds", *names)]
    )


def check_outputs(folder: Path, recordings: Sequence[str], names: Sequence[str], kind: str, listed_in: str) -> None:
    """Raise ValueError if two recordings need the same file, or one path as both a file and a folder."""
    owners: dict[Path, str] = {
        folder / _NOTE: "the settings of these features",
        folder / _LOCK: "the lock of this folder",
    }
    for recording in recordings:
        for path in outputs(target(folder, recording, kind), names):
            if owners.get(path) == recording:
                raise ValueError(f"{recording} is listed twice in {listed_in}: remove one of the lines")
            if path in owners:
                raise ValueError(
                    f"{owners[path]} and {recording} in {listed_in} would both be written to {path}: rename one of them"
                )
            owners[path] = recording
    for path, recording in owners.items():
        for parent in path.parents:
            if parent == folder:
                break
            if parent in owners:
                raise ValueError(
                    f"{owners[parent]} and {recording} in {listed_in} need {parent} both as a file and as a folder: "
                    "rename one of them"
                )


def write(path: Path, features: dict[str, np.ndarray], seconds: np.ndarray, facts: dict[str, Any]) -> None:
    """Write one file's features.

    Args:
        features: name -> T x C. In .npy format each feature has its own file (name.feature.npy if there are several)
            and name.seconds.npy has the frame times; in .parquet format each row is a frame and each feature a column
            of lists.
        seconds: times of the frame centres in seconds, T.
        facts: plain values for the Parquet file's metadata.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        parts = {"seconds": seconds} | features
        for name, values in parts.items():
            # `path` itself is written last: if it exists, so do the others
            _write_npy(_npy_path(path, name, alone=len(features) == 1), values)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"seconds": pa.array(seconds)}
    for name, values in features.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    table = pa.table(columns).replace_schema_metadata({"fairseq": json.dumps(facts)})
    temporary = path.with_name(path.name + ".part")
    pq.write_table(table, temporary)
    os.replace(temporary, path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the system releases the lock when the process ends.

    Raises:
        ValueError: another process is writing there; the message names it and its host.
    """
    make_folder(folder, "--output-dir")
    with open(folder / _LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ValueError(
                f"{owner} is writing features to {folder}: wait until it ends, or choose another --output-dir"
            ) from None
        except OSError as error:  # a network file system without locks
            logger.warning("%s cannot be locked (%s): do not start a second run there", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
        file.truncate(0)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Record the settings of a folder's features, so that a run with other settings does not mix its own in.

    Args:
        settings: everything that the features depend on, including the manifest's root, which output paths leave out.
    Raises:
        ValueError: the folder holds features made with other settings, or its extract.json is damaged.
    """
    note = folder / _NOTE
    if note.exists():
        found = _read_note(note)
        other = {key: (found.get(key), value) for key, value in settings.items() if found.get(key) != value}
        if other:
            listing = "; ".join(f"{key} {old!r}, now {new!r}" for key, (old, new) in other.items())
            moved = f". If the audio has only moved, write its new root into {note}" if "root" in other else ""
            raise ValueError(
                f"{folder} holds features made with other settings ({listing}): choose another --output-dir, or remove "
                f"{folder}{moved}"
            )
        return
    temporary = note.with_name(note.name + ".part")
    temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, note)


def _read_note(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}, which has the settings of the features in its folder, is damaged ({error}): remove the folder"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path}, which has the settings of the features in its folder, is not a JSON object: remove the folder"
        )
    return found


def digest(path: str | os.PathLike[str]) -> str:
    """Return a checksum of a checkpoint file; for a folder, its path."""
    if not os.path.isfile(path):
        return os.fspath(path)
    checksum = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


def is_done(path: Path, names: Sequence[str]) -> bool:
    """Return whether all feature files of a recording exist."""
    return all(file.exists() for file in outputs(path, names))


def _npy_path(path: Path, name: str, alone: bool) -> Path:
    return path if alone and name != "seconds" else path.with_suffix(f".{name}.npy")


def _write_npy(path: Path, values: np.ndarray) -> None:
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.save(file, values)
    os.replace(temporary, path)
