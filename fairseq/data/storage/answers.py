"""What stores answer: bytes, with the version of the object that they are from, or an error."""

from __future__ import annotations

from typing import NamedTuple

from fairseq import stores
from fairseq.dataclass.base import RunError

CONNECTIONS = 16  # concurrent requests of a process


class StoreError(RunError):
    """An object cannot be read, which ends a run; the message names its URL, the store's answer and what to check."""

    def __reduce__(self) -> tuple[type, tuple[object]]:
        return StoreError, (self.problems[0],)


class Stamp(NamedTuple):
    """The version of an object."""

    tag: str  # its ETag, or what the file system has instead
    size: int | None  # bytes; None: the store does not say


class Fetched(NamedTuple):
    """Bytes of an object, and the version that they are from."""

    data: bytes
    stamp: Stamp


def checked(url: str, data: bytes, stamp: Stamp, begin: int, end: int) -> Fetched:
    """Return the answer to a request for bytes `begin` to `end`.

    Raises:
        fairseq.stores.StoreError: it has another length.
    """
    wanted = end - begin if stamp.size is None else max(0, min(end, stamp.size) - begin)
    if len(data) != wanted and (stamp.size is not None or len(data) > wanted):
        text = f"{len(data):,} bytes arrived instead of {wanted:,}"
        raise stores.StoreError(url, text, "Check the network and the store.", True)
    return Fetched(data, stamp)
