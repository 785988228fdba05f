"""Copy single files to a store and back: complete and verified, or not there at all."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from fairseq import stores
from fairseq.checkpoint import atomic

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from fsspec.callbacks import NoOpCallback

# an object appears there when it is complete; elsewhere, files are written under a temporary name and renamed
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory")
_PIECE = 1 << 22  # bytes that are read at once
_PART = 50 << 20  # bytes of s3fs's parts of a large object


class Digest(NamedTuple):
    """What identifies a file's content."""

    size: int  # bytes
    md5: str  # not for security: it is what stores report


def digest(path: str) -> Digest:
    """Read a whole file, and return its digest."""
    content, size = hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            content.update(piece)
            size += len(piece)
    return Digest(size, content.hexdigest())


def has_renames(url: str) -> bool:
    """Whether files of this store are written under a temporary name first."""
    return url.partition("://")[0].lower() not in _OBJECT_STORES


def send(
    path: str, url: str, own: Digest, patience: float | None = None, beat: Callable[[], None] | None = None
) -> None:
    """Upload a file, and check size and content in the store. Readers see the old object or the new one.

    Args:
        own: the file's digest.
        patience: seconds for which failures are tried again; None: `stores.PATIENCE`.
        beat: called while it makes progress, or waits.
    Raises:
        StoreError: the store refused, or stayed away; names the URL.
        OSError: the file cannot be read.
    """

    def upload(fs: AbstractFileSystem, target: str) -> None:
        fs.put_file(path, target, callback=_beats(beat))

    _place(url, upload, own, path, patience, beat)


def copy(
    source: str, url: str, own: Digest, patience: float | None = None, beat: Callable[[], None] | None = None
) -> None:
    """Copy an object inside its store, and check the copy; arguments and errors as for `send`.

    Args:
        source: URL of the object.
    """

    def duplicate(fs: AbstractFileSystem, target: str) -> None:
        fs.cp_file(stores.opened(source)[1], target)

    _place(url, duplicate, own, None, patience, beat)


def _place(
    url: str,
    make: Callable[[AbstractFileSystem, str], None],
    own: Digest,
    path: str | None,
    patience: float | None,
    beat: Callable[[], None] | None,
) -> None:
    """Make an object with `make`, check it, and put it in place."""
    fs, final = stores.opened(url)

    def once() -> None:
        if not has_renames(url):
            make(fs, final)
            _check(fs, final, url, own, path)
            return
        fs.makedirs(fs._parent(final), exist_ok=True)
        temporary = f"{final}.{secrets.token_hex(4)}{atomic.TEMPORARY}"
        make(fs, temporary)
        _check(fs, temporary, url, own, path)
        fs.mv(temporary, final)

    stores.retried(once, url, patience, beat)


def _check(fs: AbstractFileSystem, target: str, url: str, own: Digest, path: str | None) -> None:
    """Compare an object with what was sent: by the store's checksum, or else by reading it back."""
    info = fs.info(target)
    if info["size"] != own.size:
        raise _unlike(url, f"it has {info['size']:,} bytes, not {own.size:,}")
    if not _etag_says(info.get("ETag"), own, path) and _read_back(fs, target) != own.md5:
        raise _unlike(url, "its content differs from what was sent")


def _unlike(url: str, what: str) -> stores.StoreError:
    return stores.StoreError(url, f"the upload failed: {what}", "Check the network and the store.", True)


def _etag_says(etag: object, own: Digest, path: str | None) -> bool:
    """Whether an S3 ETag proves the content; false if it cannot tell, as with encrypted buckets."""
    text = str(etag or "").strip('"')
    if text == own.md5:
        return True
    count = text.partition("-")[2]
    if path is None or not count.isdigit() or int(count) != math.ceil(own.size / _PART):
        return False
    parts = hashlib.md5(usedforsecurity=False)  # of a large object: the MD5 of its parts' MD5s
    with open(path, "rb") as file:
        while part := file.read(_PART):
            parts.update(hashlib.md5(part, usedforsecurity=False).digest())
    return text == f"{parts.hexdigest()}-{count}"


def _read_back(fs: AbstractFileSystem, target: str) -> str:
    content = hashlib.md5(usedforsecurity=False)
    with cast(BinaryIO, fs.open(target, "rb")) as file:
        while piece := file.read(_PIECE):
            content.update(piece)
    return content.hexdigest()


def receive(
    url: str,
    path: str,
    wanted: Digest | None = None,
    patience: float | None = None,
    beat: Callable[[], None] | None = None,
) -> None:
    """Download a file under a temporary name, check it, and put it in place.

    Args:
        wanted: the digest that it must have; None: only what the store reports is checked.
    Raises:
        MissingObject: the object does not exist.
        StoreError: the store refused, or stayed away, or the content is not the wanted one; names the URL.
        OSError: the file cannot be written.
    """
    fs, source = stores.opened(url)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = atomic.temporary_name(path)

    def once() -> None:
        info = fs.info(source)
        if info["type"] == "directory":
            raise FileNotFoundError(source)
        fs.get_file(source, temporary, callback=_beats(beat))
        own, after = digest(temporary), fs.info(source)
        wrong_size = info["size"] is not None and own.size != info["size"]  # web servers may not say
        if wrong_size or any(info.get(key) != after.get(key) for key in ("size", "ETag")):
            raise _unfit(url, f"has {own.size:,} of {info['size'] or 0:,} bytes, or the object was replaced meanwhile")
        if wanted is not None and own != wanted:
            raise _unfit(url, f"has {own.size:,} bytes and MD5 {own.md5}, not {wanted.size:,} and {wanted.md5}")

    try:
        stores.retried(once, url, patience, beat)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        atomic.sync_folder(os.path.dirname(path) or ".")
    finally:
        atomic.remove(temporary)


def _unfit(url: str, what: str) -> stores.StoreError:
    return stores.StoreError(url, f"the download {what}", "Check the network, and whether the object is intact.", True)


def _beats(beat: Callable[[], None] | None) -> NoOpCallback:
    """Return fsspec's kind of callback."""
    from fsspec.callbacks import NoOpCallback  # its type is what file systems ask for

    class Beats(NoOpCallback):
        def call(self, hook_name: str | None = None, **kwargs: object) -> None:
            if beat is not None:
                beat()

    return Beats()
