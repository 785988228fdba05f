"""The list of a run's checkpoints in a store: the object `checkpoints.json` next to them.

A checkpoint in one file is an object of its name, which stores replace at once. The files of a sharded one are in a
folder of their own, `checkpoint.UPDATES-TOKEN.shards`. It is complete before the list names it, and never changes, so
a reader never sees half of a checkpoint. All names of one save point to the same folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from fairseq import stores
from fairseq.checkpoint import atomic, sharded, transfer
from fairseq.checkpoint.retention import FILE, FOLDER
from fairseq.checkpoint.transfer import Digest

logger = logging.getLogger(__name__)

NAME = "checkpoints.json"
VERSION = 1
UNKNOWN = -1  # updates of a checkpoint that the list does not have
_OWN_FOLDER = re.compile(r"checkpoint\.\d+-[0-9a-f]+\.shards")  # of one save
Beat = Callable[[], None]


class Entry(NamedTuple):
    """A checkpoint in the store."""

    object: str  # the object's name, or the folder's
    updates: int
    files: dict[str, Digest]  # by name in the folder; "" for a single file; empty: unknown

    @property
    def is_folder(self) -> bool:
        return self.object.endswith(FOLDER)


class Index(NamedTuple):
    """The list."""

    writer: str  # identifies the process that wrote it last
    entries: dict[str, Entry]  # by the checkpoint's name


def own_folder(updates: int, token: str) -> str:
    return f"checkpoint.{updates}-{token}{FOLDER}"


def read(store: str, patience: float | None = None, beat: Beat | None = None) -> Index:
    """Read the list; empty if the store has none, or if it is damaged.

    Args:
        store: URL of the folder of checkpoints.
    Raises:
        ValueError, StoreError: the store cannot be read.
    """
    url = stores.joined(store, NAME)
    fs, target = stores.opened(url)
    try:
        text = stores.retried(lambda: fs.cat_file(target), url, patience, beat)
    except stores.MissingObject:
        return Index("", {})
    try:
        return _parsed(text)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        logger.error(f"{url} is damaged ({error}): the checkpoints are found by their names")
        return Index("", {})


def _parsed(text: str | bytes) -> Index:
    found = json.loads(text)
    if found["version"] != VERSION:
        raise ValueError(f"version {found['version']!r}")
    entries = {}
    for name, entry in found["checkpoints"].items():
        inside = {str(file): Digest(int(size), str(md5)) for file, (size, md5) in entry["files"].items()}
        whole = [name, str(entry["object"]), *inside]
        if any("/" in part or part in (".", "..") for part in whole):
            raise ValueError(f"{name} is not a checkpoint's name")
        entries[str(name)] = Entry(whole[1], int(entry["updates"]), inside)
    return Index(str(found["writer"]), entries)


def write(store: str, index: Index, patience: float | None = None, beat: Beat | None = None) -> None:
    """Replace the list; errors as for `read`."""
    url = stores.joined(store, NAME)
    fs, target = stores.opened(url)
    checkpoints = {name: entry._asdict() for name, entry in sorted(index.entries.items())}
    text = json.dumps({"version": VERSION, "writer": index.writer, "checkpoints": checkpoints}, indent=1).encode()

    def once() -> None:
        if transfer.has_renames(url):
            fs.makedirs(fs._parent(target), exist_ok=True)
            fs.pipe_file(f"{target}{atomic.TEMPORARY}", text)
            fs.mv(f"{target}{atomic.TEMPORARY}", target)
        else:
            fs.pipe_file(target, text)

    stores.retried(once, url, patience, beat)


def names_in(store: str, patience: float | None = None, beat: Beat | None = None) -> list[str]:
    """List the names in the store's folder; errors as for `read`."""
    fs, target = stores.opened(store)
    try:
        found = stores.retried(lambda: fs.ls(target, detail=False), store, patience, beat)
    except stores.MissingObject:
        return []
    return [str(path).rstrip("/").rpartition("/")[2] for path in found]


def catalogue(index: Index, names: list[str]) -> dict[str, Entry]:
    """Return every checkpoint in the store: those of the list, and others, such as hand-made copies, by their names."""
    there = set(names)
    found = {name: entry for name, entry in index.entries.items() if entry.object in there}
    listed = {entry.object for entry in found.values()}
    for name in names:
        # without a list, the folders of saves are all that there is
        is_leftover = bool(index.entries) and _OWN_FOLDER.fullmatch(name)
        if name.startswith("checkpoint") and name.endswith((FILE, FOLDER)) and name not in listed and not is_leftover:
            found.setdefault(name, Entry(name, _updates_in(name), {}))
    return found


def _updates_in(name: str) -> int:
    """Read the updates in the name of a save's own folder."""
    return int(name.split(".")[1].partition("-")[0]) if _OWN_FOLDER.fullmatch(name) else UNKNOWN


def unused_folders(index: Index, names: list[str]) -> list[str]:
    """List the folders that the list does not name: of removed checkpoints, and of uploads that were killed."""
    used = {entry.object for entry in index.entries.values()}
    return [name for name in names if _OWN_FOLDER.fullmatch(name) and name not in used]


def remove(store: str, name: str, patience: float | None = None) -> None:
    """Remove an object or a folder. A failure is logged: it costs space, nothing else."""
    url = stores.joined(store, name)
    fs, target = stores.opened(url)
    try:
        stores.retried(lambda: fs.rm(target, recursive=name.endswith(FOLDER)), url, patience)
    except stores.MissingObject:
        pass
    except OSError as error:
        logger.warning(f"cannot remove an old checkpoint: {error}")


def download(store: str, entry: Entry, path: str, patience: float | None = None, beat: Beat | None = None) -> None:
    """Download a checkpoint, file or folder, and put it in place.

    Args:
        store: URL of the folder of checkpoints.
        path: a local path; an older checkpoint of this name is replaced.
    Raises:
        MissingObject: it is not there any more.
        StoreError: the store cannot be read, or its content is not what the list says.
        OSError: the local disk failed.
    """
    url = stores.joined(store, entry.object)
    if not entry.is_folder:
        # the object may be newer than the list, after a kill between the two: its own checksums are verified later
        transfer.receive(url, path, None, patience, beat)
        return
    fs, target = stores.opened(url)
    files: dict[str, Digest | None] = dict(entry.files)
    if not files:
        found = stores.retried(lambda: fs.ls(target, detail=False), url, patience, beat)
        files = {str(name).rpartition("/")[2]: None for name in found}
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with atomic.new_folder(path) as temporary:
        for name in sorted(files, key=lambda name: name == sharded.CHECKSUMS):
            transfer.receive(stores.joined(url, name), os.path.join(temporary, name), files[name], patience, beat)
