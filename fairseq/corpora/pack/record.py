"""The record of a pack: its plan, and the shards that are finished, so that a killed command continues.

Two files in the destination: NAME.pack.jsonl has the plan on its first line, then a line for each finished shard, then
one that says that all is done. NAME.utterances.part has a line for each utterance of the finished shards, packed or
left out; the manifest and the labels are made from it at the end. A shard's utterances are on the disk before its line,
and its line before its final name, so after a kill at any moment either the shard is finished, or none of it counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from fairseq.corpora.pack.shards import UNFINISHED, put_in_place, unfinished
from fairseq.corpora.pack.source import Json

RECORD, UTTERANCES = ".pack.jsonl", ".utterances" + UNFINISHED
SHARED = ("dict.ltr.txt", "dict.wrd.txt", "SHA256SUMS")  # by all names of a destination
OUTPUTS = (".tsv", ".tsv.index", ".jsonl", ".left_out.tsv", ".ltr", ".wrd")
_NAME = re.compile(r"\w[\w-]*")
_SHARD_NUMBER = re.compile(r"-\d{6}$")
_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What is packed, and how; a command continues only what has the same plan."""

    kind: str
    items: int
    digest: str  # of everything that the source says
    options: dict[str, Json]
    makes_dictionary: bool
    source: str = ""  # for readers of the file; not compared
    encoder: str = ""  # likewise

    def difference(self, other: Plan) -> str | None:
        """Say how another plan differs from this one; None if it does not."""
        changes = [
            f"{name} was {self.options.get(name)!r} and is now {other.options.get(name)!r}"
            for name in sorted({*self.options, *other.options})
            if self.options.get(name) != other.options.get(name)
        ]
        if self.kind != other.kind:
            changes.append(f"the source was read as {self.kind} and is now read as {other.kind}")
        elif (self.items, self.digest) != (other.items, other.digest):
            changes.append(f"the source has changed (it had {self.items:,} utterances, and now has {other.items:,})")
        return "; ".join(changes) or None


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard."""

    file: str
    size: int  # bytes
    sha256: str
    next_item: int  # number of the source's first utterance that is not in this shard or an earlier one
    utterances: int
    left_out: int  # up to and including this shard
    written: int  # bytes of the file of utterances that belong to finished shards


class Record:
    """The record of one name in a destination; locked while it is open.

    Args:
        dest: the destination, which exists.
        name: the name of the split, such as train.
        restart: remove what there is, and begin again.
    Raises:
        ValueError: another process writes it, it is damaged, or the destination has other files.
    """

    def __init__(self, dest: Path, name: str, restart: bool = False) -> None:
        check_name(name)
        self.dest, self.name = dest, name
        self.path, self._utterances_path = dest / (name + RECORD), dest / (name + UTTERANCES)
        self.refuse_other_files()
        self.plan: Plan | None = None
        self.shards: list[ShardRecord] = []
        self.result: dict[str, Json] | None = None  # once all is done
        self.made_dictionary = False  # this pack, or the one that it replaces, made the destination's dictionary
        self._utterances: IO[bytes] | None = None
        existed = self.path.exists()
        # one file object for reading, writing and the lock: closing a second one would release the lock
        self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115
        try:
            self._lock()
            if restart:
                with contextlib.suppress(ValueError):  # damaged
                    self._read()
                self._remove_all()
            elif existed:
                self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another fairseq-pack writes {self.name} in {self.dest}. Wait until it ends, or choose another --name."
            ) from error
        except OSError:  # a file system without locks
            return

    # -- files ---------------------------------------------------------------------------------------------------------

    def owns(self, file: str) -> bool:
        return belongs(file, self.name)

    def refuse_other_files(self) -> None:
        """Raise ValueError if the destination has files that no fairseq-pack wrote."""
        names = [file.name.removesuffix(RECORD) for file in self.dest.glob("*" + RECORD)]
        strangers = sorted(
            file
            for file in os.listdir(self.dest)
            if not (file.startswith(".") or file.removesuffix(UNFINISHED) in SHARED)
            and not any(belongs(file, name) for name in names)
        )
        if strangers:
            raise ValueError(
                f"--dest {self.dest} has files that fairseq-pack did not write, such as {strangers[0]}. Choose an "
                "empty folder."
            )

    def _remove_all(self) -> None:
        for file in sorted(os.listdir(self.dest)):
            if self.owns(file) and file != self.path.name:
                (self.dest / file).unlink()
        self._file.truncate(0)
        self.plan, self.shards, self.result = None, [], None

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"{self.path}: {problem} Use --restart to pack from the beginning.")

    def _read(self) -> None:
        self._file.seek(0)
        good, lines = 0, []
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # cut off by a kill
            lines.append(line)
            good += len(line)
        self._file.truncate(good)
        if not lines:
            return
        try:
            facts = [json.loads(line) for line in lines]
            if facts[0].pop("version") != _VERSION:
                raise self._error("another version of this package wrote it.")
            self.plan = Plan(**facts[0])
            self.made_dictionary = self.plan.makes_dictionary
            self.result = facts.pop()["done"] if "done" in facts[-1] else None
            self.shards = [ShardRecord(**shard) for shard in facts[1:]]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._error(f"the record is damaged ({error}).") from error

    # -- continuing ----------------------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        """Start or continue a pack.

        Raises:
            ValueError: it was started with another plan, or a finished shard is missing or has changed.
        """
        difference = None if self.plan is None else self.plan.difference(plan)
        if self.plan is None or (difference is not None and not self.shards):
            self.plan = plan
            self._file.truncate(0)
            self._append({"version": _VERSION, **asdict(plan)})
        else:
            if difference is not None:
                raise ValueError(
                    f"{self.dest} has {self.name} of another pack: {difference}. Use the same source and options to "
                    "continue it, --restart to pack from the beginning, or another --dest or --name."
                )
            self._check_shards()
        if not self.is_done:
            self._utterances = open(self._utterances_path, "ab")  # noqa: SIM115
            self._utterances.truncate(self.written)
            self._utterances.seek(self.written)

    def _check_shards(self) -> None:
        for number, shard in enumerate(self.shards):
            file = self.dest / shard.file
            if number == len(self.shards) - 1 and not file.exists() and unfinished(file).exists():
                put_in_place(file)  # killed between the record's line and the renaming
            if not file.exists() or file.stat().st_size != shard.size:
                raise self._error(f"the shard {shard.file} is missing or has changed.")
        size = self._utterances_path.stat().st_size if self._utterances_path.exists() else 0
        if not self.is_done and size < self.written:
            raise self._error(f"the file {self._utterances_path.name} is missing or damaged.")

    @property
    def is_done(self) -> bool:
        return self.result is not None

    @property
    def next_item(self) -> int:
        return self.shards[-1].next_item if self.shards else 0

    @property
    def left_out(self) -> int:
        return self.shards[-1].left_out if self.shards else 0

    @property
    def written(self) -> int:
        return self.shards[-1].written if self.shards else 0

    def shard_path(self) -> Path:
        """Return the path of the next shard."""
        return self.dest / f"{self.name}-{len(self.shards):06d}.tar"

    def note(self, line: dict[str, Json]) -> None:
        """Write a line about an utterance of the shard that is being written."""
        assert self._utterances is not None
        self._utterances.write(to_line(line))

    def finish_shard(self, size: int, sha256: str, next_item: int, utterances: int, left_out: int) -> None:
        """Record a finished shard, and give it its final name."""
        assert self._utterances is not None
        self._utterances.flush()
        os.fsync(self._utterances.fileno())
        path, written = self.shard_path(), self._utterances.tell()
        shard = ShardRecord(path.name, size, sha256, next_item, utterances, left_out, written)
        self._append(asdict(shard))
        self.shards.append(shard)
        put_in_place(path)

    def lines(self) -> Iterator[dict[str, Json]]:
        """Yield what was noted of all utterances, in order."""
        with open(self._utterances_path, "rb") as file:
            for line in file:
                yield json.loads(line)

    def finish(self, result: dict[str, Json]) -> None:
        """Record that everything is written, and the numbers to report."""
        self._append({"done": result})
        self.result = result
        self.close()
        self._utterances_path.unlink(missing_ok=True)

    def _append(self, line: dict[str, Json]) -> None:
        self._file.write(to_line(line))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._utterances is not None:
            self._utterances.close()
        if self.plan is None:  # nothing was started
            self.path.unlink(missing_ok=True)
        self._file.close()


def to_line(line: Mapping[str, Json], errors: str = "backslashreplace") -> bytes:
    """Return an object as a line of JSON, always the same.

    Args:
        errors: what happens to lone surrogates, which names that are not UTF-8 have; by default they come back.
    """
    return json.dumps(line, ensure_ascii=False, sort_keys=True).encode(errors=errors) + b"\n"


def check_name(name: str) -> None:
    """Raise ValueError for a name that files of shards cannot have."""
    if not _NAME.fullmatch(name) or _SHARD_NUMBER.search(name):
        raise ValueError(
            f"--name is {name!r}; it must consist of letters, digits, '-' and '_', and not end like a shard's number."
        )


def belongs(file: str, name: str) -> bool:
    """Return whether a file of a destination belongs to this name."""
    rest = file.removesuffix(UNFINISHED).removeprefix(name)
    if not file.startswith(name):
        return False
    return rest in (*OUTPUTS, RECORD, UTTERANCES.removesuffix(UNFINISHED)) or bool(re.fullmatch(r"-\d{6}\.tar", rest))


def makers_of_dictionary(dest: Path, name: str) -> list[tuple[str, bool]]:
    """Return (name, whether it is done) of the other packs in this destination that make its dictionary."""
    found = []
    for file in sorted(dest.glob("*" + RECORD)):
        other = file.name.removesuffix(RECORD)
        lines = file.read_bytes().splitlines() if other != name else []
        try:
            if lines and json.loads(lines[0])["makes_dictionary"]:
                found.append((other, "done" in json.loads(lines[-1])))
        except (ValueError, KeyError, TypeError):  # it is being written
            continue
    return found
