"""Checkpoints named by a URL or by an id of the Hugging Face hub: downloaded once, into a cache of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator

from fairseq import stores
from fairseq.checkpoint import atomic, hub, store_index
from fairseq.checkpoint.retention import FOLDER
from fairseq.checkpoint.store_index import Entry

logger = logging.getLogger(__name__)

CACHE = "FAIRSEQ_CACHE"  # environment variable: the folder for downloaded checkpoints


def cache_folder() -> str:
    """Return the folder of downloaded checkpoints: FAIRSEQ_CACHE, else below the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get(CACHE) or os.path.join(home, "fairseq", "checkpoints")


def local(path: str | os.PathLike[str]) -> str:
    """Return the path of a local checkpoint: a path unchanged; for others, that of a download, made now if necessary.

    For a URL, the store is asked each time whether its object is still the same. Processes of one machine download it
    once. For an id of the Hugging Face hub, see `hub`.

    Raises:
        MissingFileError: a model of the hub is neither in the cache nor can be downloaded.
        MissingObject: the store has no such checkpoint; also a FileNotFoundError.
        StoreError: the store cannot be read; names the URL, and what to check.
        ValueError: the URL cannot be opened.
    """
    text = os.fspath(path)
    if not stores.is_url(text):
        return hub.folder(text) if hub.is_id(text) else text
    store, _, name = text.rstrip("/").rpartition("/")
    entry, version = _found(store, name)
    folder = os.path.join(cache_folder(), hashlib.sha256(text.encode()).hexdigest()[:16])
    target = os.path.join(folder, version, name)
    with locked(folder):
        if os.path.exists(target):
            return target
        logger.info(f"downloading {text} to {target}")
        for old in os.listdir(folder):
            if old != _LOCK:
                atomic.remove(os.path.join(folder, old))
        store_index.download(store, entry, target)
    return target


def _found(store: str, name: str) -> tuple[Entry, str]:
    """Return a checkpoint of a store, and text that changes with its content."""
    url = stores.joined(store, name)
    if name.endswith(FOLDER):
        entry = store_index.read(store).entries.get(name) or Entry(name, store_index.UNKNOWN, {})
        if not entry.files:
            fs, target = stores.opened(url)
            found = stores.retried(lambda: fs.ls(target, detail=True), url)
            return entry, _hash(sorted((str(file["name"]), str(file["size"]), _version(file)) for file in found))
        return entry, _hash([entry.object, sorted(entry.files.items())])
    fs, target = stores.opened(url)
    info = stores.retried(lambda: fs.info(target), url)
    return Entry(name, store_index.UNKNOWN, {}), _hash([info["size"], _version(info)])


def _version(info: dict[str, object]) -> str:
    """Return what a store says of an object's version."""
    return str([info.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "created", "updated")])


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


_LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Let one process of this machine at a time work in a folder, inside a `with` block."""
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: at worst, several processes download
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
