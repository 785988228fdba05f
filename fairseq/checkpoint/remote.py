"""A run's checkpoints in an object store: `checkpoint.save_dir=s3://bucket/folder`.

Checkpoints are written to a local folder first, as without a store, and then uploaded. So every rule for local files
holds, and a store that is away costs nothing but the copy there. `store_index` says what the store's folder looks like.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fairseq import stores
from fairseq.checkpoint import atomic, fetching, io, retention, snapshot, store_index, transfer
from fairseq.checkpoint.store_index import UNKNOWN, Entry, Index
from fairseq.checkpoint.transfer import Digest
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import progress
from fairseq.logging.run_files import RECORDS

logger = logging.getLogger("fairseq.checkpoint_utils")  # fairseq: the name in its log lines

STAGING = "checkpoints"  # the default of checkpoint.save_dir; the store's name follows
START_PATIENCE = 90.0  # seconds for which an unreachable store is tried before training
EVERY = 5.0  # seconds between two signs of life to the watchdog
LONGEST = 3600.0  # seconds of an upload after which the watchdog may end the run
BRIEFLY = 5.0  # seconds for which a store that was away at the last save is tried at this one
_CHECKPOINT = re.compile(rf"checkpoint.*{retention.ENDINGS}")


def stage(cfg: CheckpointConfig) -> None:
    """If `checkpoint.save_dir` is a URL, make it the store, and a local folder the `save_dir`.

    The folder depends only on the URL, so that the same command finds it again: `checkpoints/s3/bucket/folder`.
    """
    if not stores.is_url(cfg.save_dir):
        return
    protocol, _, place = cfg.save_dir.partition("://")
    parts = [part for part in re.split(r"[/?#:\\]", place) if part not in ("", ".", "..")]
    cfg.store = cfg.save_dir.rstrip("/")
    cfg.save_dir = os.path.join(STAGING, protocol.lower(), *parts)


def describe(cfg: CheckpointConfig) -> str:
    return f"checkpoints are written to {cfg.save_dir} and uploaded to {cfg.store} (checkpoint.store)"


def verify_store(cfg: CheckpointConfig) -> None:
    """Write a small object to the store and delete it, so that a run fails at once rather than at its first save.

    Raises:
        ValueError: the store cannot be opened or written; names URL, status and what to check.
    """
    if cfg.store is None:
        return
    url = stores.joined(cfg.store, f".writable.{secrets.token_hex(4)}")
    try:
        fs, target = stores.opened(url)
    except ValueError as error:
        raise ValueError(f"checkpoint.store={cfg.store} cannot be opened: {error}") from error

    def probe() -> None:
        if transfer.has_renames(url):
            fs.makedirs(fs._parent(target), exist_ok=True)
        fs.pipe_file(target, b"fairseq writes checkpoints here\n")
        fs.rm_file(target)

    try:
        stores.retried(probe, url, START_PATIENCE, beat)
    except OSError as error:
        raise ValueError(f"checkpoint.store={cfg.store} is not writable: {error}") from error


def beat() -> None:
    """Tell the watchdog that a save makes progress, if the main loop waits for it."""
    loop = progress.of_this_process()
    if loop.step.phase == "saving":
        loop.alive()


@contextlib.contextmanager
def beating() -> Iterator[None]:
    """Call `beat` regularly inside a `with` block: one call of a store that is away can take minutes by itself."""
    done = threading.Event()
    until = time.monotonic() + LONGEST

    def run() -> None:
        while not done.wait(EVERY) and time.monotonic() < until:
            beat()

    thread = threading.Thread(target=run, name="upload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Unsent(NamedTuple):
    """Why checkpoints are not in the store."""

    paths: list[str]  # local
    reason: str

    def __str__(self) -> str:
        return f"{', '.join(self.paths)} could not be uploaded: {self.reason}"


class OtherWriter(Exception):
    """Another run writes to the same store."""


def _superseded(entries: Mapping[str, Entry]) -> list[str]:
    """List the checkpoints whose other form, file or folder, is newer: a later save of the same name."""
    others = {name: entries[other] for name in entries if (other := retention.other_form(name)) in entries}
    return [name for name, other in others.items() if UNKNOWN < entries[name].updates < other.updates]


class Mirror:
    """The copy of a run's checkpoints in a store. Only rank 0 writes to it.

    Args:
        cfg: the config group `checkpoint`, with `store`.
    """

    def __init__(self, cfg: CheckpointConfig) -> None:
        assert cfg.store is not None, "without checkpoint.store there is nothing to mirror"
        self.cfg, self.store = cfg, cfg.store
        self._token = secrets.token_hex(8)
        self._index: Index | None = None  # None: not read yet
        self._waiting: dict[str, int] = {}  # names that are not in the store, and their updates
        self._known: dict[str, tuple[tuple[int, int], dict[str, Digest]]] = {}  # size and time of files read, digests
        self._is_away = False

    @property
    def names(self) -> list[str]:
        """Names of the checkpoints in the store, as far as this process knows."""
        return [] if self._index is None else list(self._index.entries)

    # -- uploading -----------------------------------------------------------------------------------------------------

    def push(self, paths: Sequence[str], updates: int, stopping: bool = False) -> Unsent | None:
        """Upload a save's checkpoints, and all earlier ones that are not in the store yet; then remove outdated ones.

        Args:
            paths: in `save_dir`; copies of one checkpoint.
            stopping: the run ends, so a store that is away is waited for.
        Returns:
            what could not be uploaded, and why; None if everything is in the store.
        """
        for path in paths:
            name = os.path.basename(path)
            self._waiting.pop(name, None)  # a name's place is that of its newest content
            self._waiting[name] = updates
            self._known.pop(name, None)
        if paths:
            files = self._digests(os.path.basename(paths[0]))
            for path in paths[1:]:
                self._known[os.path.basename(path)] = (_signature(path), files)
        return self.send_rest(stopping)

    def send_rest(self, stopping: bool = False) -> Unsent | None:
        """Upload what is not in the store yet; see `push`."""
        patience = BRIEFLY if self._is_away and not stopping else stores.PATIENCE
        try:
            with beating():
                self._open(patience)
                self._add_snapshots()
                there = [name for name in self._waiting if os.path.exists(self._at(name))]
                self._waiting = {name: self._waiting[name] for name in there}
                if self._waiting:
                    self._send_all(patience)
        except (OSError, ValueError, OtherWriter) as error:
            self._is_away = True
            return Unsent([self._at(name) for name in self._waiting], str(error))
        if self._is_away:
            logger.info(f"{self.store}: all checkpoints are uploaded now")
        self._is_away = False
        return None

    def _at(self, name: str) -> str:
        return os.path.join(self.cfg.save_dir, name)

    def _url(self, name: str) -> str:
        return stores.joined(self.store, name)

    def _open(self, patience: float) -> None:
        """Read the store's list once, and find local checkpoints that it lacks, as of an earlier process."""
        if self._index is not None:
            return
        index = store_index.read(self.store, patience, beat)
        there = store_index.catalogue(index, store_index.names_in(self.store, patience, beat))
        self._index = Index(index.writer, there)
        for name, updates in local_checkpoints(self.cfg).items():
            if name not in self._waiting and (name not in there or UNKNOWN < there[name].updates < updates):
                self._waiting[name] = updates

    def _add_snapshots(self) -> None:
        """Upload also what the doctor kept since the last save, for a machine that has nothing but the store."""
        assert self._index is not None
        for path, updates in snapshot.kept_snapshots(self.cfg).items():
            name = os.path.basename(path)
            if name not in self._index.entries and updates is not None:
                self._waiting.setdefault(name, updates)

    def _send_all(self, patience: float) -> None:
        assert self._index is not None
        found = store_index.read(self.store, patience, beat).writer
        if found not in ("", self._token, self._index.writer):
            raise OtherWriter(
                f"another run has written to {self.store} since this run started. Stop one of them, and set another "
                "checkpoint.save_dir for it"
            )
        self._index = self._index._replace(writer=self._token)
        self._send_records(patience)  # before the checkpoint: a run that resumes drops rows after it
        # the newest save first, in its own order: the checkpoint to resume from comes before copies of it
        newest = max(self._waiting.values())
        for name in sorted(self._waiting, key=lambda name: self._waiting[name] != newest):
            self._index.entries[name] = self._send(name, self._waiting[name], patience)
            store_index.write(self.store, self._index, patience, beat)
            del self._waiting[name]
        self._remove_outdated(patience)

    def _send(self, name: str, updates: int, patience: float) -> Entry:
        """Upload one checkpoint, or copy it within the store; returns its entry in the list."""
        assert self._index is not None
        files = self._digests(name)
        same = [entry for entry in self._index.entries.values() if entry.files == files]
        if name in self._index.entries and self._index.entries[name].files == files:
            return Entry(self._index.entries[name].object, updates, files)
        if "" not in files:
            if same:
                return Entry(same[0].object, updates, files)
            folder = store_index.own_folder(updates, secrets.token_hex(4))
            for file in sorted(files, key=lambda file: file == _LAST_FILE):
                at = os.path.join(self._at(name), file)
                transfer.send(at, stores.joined(self._url(folder), file), files[file], patience, beat)
            return Entry(folder, updates, files)
        if same:
            twin = same[0]
            try:
                transfer.copy(self._url(twin.object), self._url(name), files[""], 0, beat)
                return Entry(name, updates, files)
            except OSError as error:
                logger.debug(f"cannot copy {twin.object} within {self.store}: {error}")
        transfer.send(self._at(name), self._url(name), files[""], patience, beat)
        return Entry(name, updates, files)

    def _digests(self, name: str) -> dict[str, Digest]:
        """Return the digests of a local checkpoint's files, read once."""
        path = self._at(name)
        known = self._known.get(name)
        if known is not None and known[0] == _signature(path):
            return known[1]
        if os.path.isdir(path):
            files = {file: transfer.digest(os.path.join(path, file)) for file in sorted(os.listdir(path))}
        else:
            files = {"": transfer.digest(path)}
        self._known[name] = (_signature(path), files)
        return files

    def _send_records(self, patience: float) -> None:
        """Upload the run's records, which a run that resumes on another machine continues."""
        for name in RECORDS:
            if not os.path.isfile(self._at(name)):
                continue
            with open(self._at(name), "rb") as file:
                text = file.read()  # training may add rows meanwhile
            url = self._url(name)
            fs, target = stores.opened(url)
            stores.retried(lambda fs=fs, target=target, text=text: fs.pipe_file(target, text), url, patience, beat)

    def _remove_outdated(self, patience: float) -> None:
        """Apply the keep_* settings to the store, and remove what killed uploads left there."""
        assert self._index is not None
        entries = self._index.entries
        outdated = {*retention.outdated_names(self.cfg, list(entries)), *_superseded(entries)}
        gone = [entries.pop(name) for name in sorted(outdated)]
        if gone:
            store_index.write(self.store, self._index, patience, beat)
        names = store_index.names_in(self.store, patience, beat)
        unused = store_index.unused_folders(self._index, names)
        unfinished = [name for name in names if name.startswith("checkpoint") and name.endswith(atomic.TEMPORARY)]
        for name in dict.fromkeys([*(entry.object for entry in gone if not entry.is_folder), *unused, *unfinished]):
            store_index.remove(self.store, name, patience)

    # -- resuming ------------------------------------------------------------------------------------------------------

    def bring_newest(self) -> None:
        """Download the checkpoint to resume from, unless the local folder has a newer one; on rank 0, before `find`.

        A damaged one is skipped, as for local files: the next newest is tried.

        Raises:
            ValueError: the store cannot be read.
        """
        try:
            index = store_index.read(self.store, START_PATIENCE, beat)
            there = store_index.catalogue(index, store_index.names_in(self.store, START_PATIENCE, beat))
        except OSError as error:
            raise ValueError(f"cannot resume from checkpoint.store={self.store}: {error}") from error
        last = [retention.last_name(self.cfg, ending) for ending in (retention.FILE, retention.FOLDER)]
        own, _ = io.newest_good(self.cfg.save_dir, self._at(last[0]), self.cfg.checkpoint_suffix)
        own_updates = UNKNOWN if own is None else io.peek(own).num_updates
        ours = re.compile(rf"checkpoint.*{re.escape(self.cfg.checkpoint_suffix)}{retention.ENDINGS}")
        order = sorted(
            (name for name in there if ours.fullmatch(name)),
            key=lambda name: (name not in last, -there[name].updates, not there[name].is_folder),
        )
        for name in order:
            if own is not None and UNKNOWN < there[name].updates <= own_updates:
                break
            if self._bring(name, there[name], keeps_damaged=name in last):
                logger.info(f"downloaded {self._url(name)} to {self._at(name)}")
                self._bring_records()
                self._remove_older(there)
                break
        asked = self.cfg.restore_file
        if asked in there and asked not in last and not os.path.exists(self._at(asked)):
            self._bring(asked, there[asked])
        if own is not None and order and own_updates > max(entry.updates for entry in there.values()):
            logger.info(f"{own} (update {own_updates}) is newer than the checkpoints in {self.store}")

    def _bring(self, name: str, entry: Entry, keeps_damaged: bool = False) -> bool:
        """Download a checkpoint and verify it; returns whether it is intact."""
        path = self._at(name)
        try:
            store_index.download(self.store, entry, path, None, beat)
        except OSError as error:
            logger.error(f"cannot download the checkpoint {self._url(name)}: {error}")
            return False
        reason = io.verify(path)
        if reason is not None:
            logger.error(f"the checkpoint {self._url(name)} is damaged: {reason}")
            if not keeps_damaged:  # the last one stays: without it, a run would start at update 0
                atomic.remove(path)
        return reason is None

    def _bring_records(self) -> None:
        for name in RECORDS:
            try:
                transfer.receive(self._url(name), self._at(name), None, None, beat)
            except stores.MissingObject:
                continue
            except OSError as error:
                logger.warning(f"{name} of the run so far is missing: {error}")

    def _remove_older(self, there: dict[str, Entry]) -> None:
        """Remove local checkpoints that the store has in a newer version: this machine trained earlier."""
        for name, updates in local_checkpoints(self.cfg).items():
            if name in there and updates < there[name].updates:
                logger.info(f"removing {self._at(name)}: {self.store} has a newer one")
                atomic.remove(self._at(name))

    def bring(self, name: str) -> bool:
        """Download a checkpoint that the local folder lacks; returns whether it is there now."""
        if os.path.exists(self._at(name)):
            return True
        entry = None if self._index is None else self._index.entries.get(name)
        return entry is not None and self._bring(name, entry)


_LAST_FILE = "checksums.json"  # of a folder: see `sharded`


def _signature(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def local_checkpoints(cfg: CheckpointConfig) -> dict[str, int]:
    """Return name and updates of the readable checkpoints in `save_dir`."""
    found: dict[str, int] = {}
    for path in retention.checkpoint_paths(cfg.save_dir, _CHECKPOINT.pattern):
        try:
            found[os.path.basename(path)] = io.peek(path).num_updates
        except (OSError, ValueError) as error:
            logger.debug(f"{path} is not uploaded: {error}")
    return found


def bring_to_this_machine(cfg: CheckpointConfig, path: str, updates: int) -> None:
    """Download the checkpoint that rank 0 has chosen, if this process does not see it: it is on another machine.

    Raises:
        ValueError: the store does not have it.
    """
    name = os.path.basename(path)
    with fetching.locked(cfg.save_dir):
        try:
            if os.path.exists(path) and io.peek(path).num_updates == updates:
                return
        except (OSError, ValueError):
            pass  # damaged, or of an earlier run here: replaced
        mirror = Mirror(cfg)
        index = store_index.read(mirror.store, None, beat)
        entry = store_index.catalogue(index, store_index.names_in(mirror.store, None, beat)).get(name)
        if entry is None or not mirror._bring(name, entry) or io.peek(path).num_updates != updates:
            raise ValueError(
                f"this machine does not have {path} of update {updates}, from which rank 0 resumes, and {cfg.store} "
                "does not have it either. Copy the folder here, or rerun the command on the machine that has it: it "
                "uploads what is missing."
            )
        logger.info(f"downloaded {stores.joined(mirror.store, name)} to {path}")
