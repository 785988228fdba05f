"""Names of utterances in shards: no dot, no slash, and no name twice."""

from __future__ import annotations

import hashlib
import re
from array import array

import numpy as np

_OTHER = re.compile(r"[^\w-]+")
_LONGEST = 80  # bytes; with an extension, this fits into a plain tar header


def key_of(name: str) -> str:
    """Return the name with other characters than letters, digits, - and _ replaced; long ones end in a checksum."""
    key = _OTHER.sub("_", name).strip("_") or "utterance"
    whole = key.encode()
    if len(whole) <= _LONGEST:
        return key
    checksum = hashlib.sha256(whole).hexdigest()[:12]
    return f"{whole[: _LONGEST - 13].decode(errors='ignore')}-{checksum}"


def _number(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


class Keys:
    """Make keys unique: those that occur more than once get the number of their utterance.

    A key depends on the list of all names, and not on what was asked before. It takes 8 bytes a name.
    """

    def __init__(self) -> None:
        self._seen = array("Q")
        self._sorted = np.zeros(0, dtype=np.uint64)
        self._repeated: frozenset[int] = frozenset()

    def add(self, name: str) -> None:
        self._seen.append(_number(key_of(name)))

    def close(self) -> None:
        """Find the repeated ones; then `unique` can be called."""
        self._sorted, counts = np.unique(np.frombuffer(self._seen, dtype=np.uint64), return_counts=True)
        self._repeated = frozenset(self._sorted[counts > 1].tolist())

    def unique(self, name: str, number: int) -> str:
        """Return the key of utterance `number`."""
        key = key_of(name)
        if _number(key) not in self._repeated:
            return key
        key = f"{key}-{number:09d}"
        while self._is_taken(key):
            key += "-"
        return key

    def _is_taken(self, key: str) -> bool:
        number = np.uint64(_number(key))
        place = int(np.searchsorted(self._sorted, number))
        return place < len(self._sorted) and self._sorted[place] == number
