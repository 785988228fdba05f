"""Cut all recordings of a manifest, over processes; the code behind `fairseq-segment`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from fairseq.corpora.cuts.detector import RATE, Detector, model_file
from fairseq.corpora.cuts.journal import Entry, Journal
from fairseq.corpora.cuts.recording import cut
from fairseq.corpora.cuts.settings import CutSettings
from fairseq.corpora.cuts.summary import Summary
from fairseq.data.audio.audio_utils import UnreadableAudio
from fairseq.data.audio.manifest import Manifest, printable
from fairseq.distributed import signals
from fairseq.utils import make_folder

logger = logging.getLogger(__name__)

_TASK = 600 * RATE  # frames of short recordings that a worker takes at a time
_TICK = 1.0  # seconds between two calls of `advance` without news


class Segmented(NamedTuple):
    """Results of a run."""

    manifest: str  # that of the segments
    summary: Summary
    names: dict[int, str]  # of unreadable recordings, by line
    done_before: int  # recordings that an earlier run had finished


def segment(
    manifest_path: str,
    dest: str,
    settings: CutSettings,
    workers: int = 1,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Segmented:
    """Find the segments of all recordings, and write their manifest to `dest`, under the same name.

    Recordings that an earlier run has finished are not read again; unreadable ones are tried again.

    Args:
        workers: processes.
        advance: called with the numbers of finished recordings and of all, often.
    Raises:
        ValueError: the manifest is malformed, its root is missing, the extra `vad` is missing, `dest` has segments
            made with other settings, or a worker was killed.
    """
    model_file()
    manifest = Manifest(manifest_path)
    manifest.check_root()
    name = os.path.basename(manifest_path).removesuffix(".gz")
    output = os.path.join(dest, name)
    if os.path.exists(output) and os.path.samefile(output, manifest_path):
        raise ValueError(
            f"--dest {dest} is the folder of {manifest_path}, which would be replaced. Choose another one."
        )
    make_folder(dest, "--dest")
    with Journal(
        f"{output.removesuffix('.tsv')}.segments.jsonl", len(manifest), _identity(manifest_path, settings)
    ) as journal:
        waiting = journal.waiting()
        done = len(manifest) - len(waiting)

        def tick() -> None:
            advance(done, len(manifest))

        tick()
        for entries in _found(manifest, waiting, settings, min(workers, len(waiting)), journal, tick):
            for entry in entries:
                journal.add(entry)
            done += len(entries)
            tick()
        summary = Summary()
        _write(output, manifest, journal, summary)
    names = {line: printable(manifest.name(line)) for line in summary.errors}
    for line, error in summary.errors.items():
        logger.warning("%s: %s", names[line], error)
    return Segmented(output, summary, names, len(manifest) - len(waiting))


def _identity(manifest_path: str, settings: CutSettings) -> dict[str, object]:
    checksum = hashlib.sha256()
    with open(manifest_path, "rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    values = {**asdict(settings), "target": settings.target_seconds}
    return {"manifest": checksum.hexdigest(), "silero-vad": importlib.metadata.version("silero-vad"), **values}


def _write(output: str, manifest: Manifest, journal: Journal, summary: Summary) -> None:
    """Write the segments in the manifest's order, atomically."""
    temporary = output + ".part"
    with open(temporary, "wb") as file:
        file.write(os.fsencode(manifest.root) + b"\n")
        for entry in journal.entries():
            summary.add(entry)
            if entry.found is None:
                continue
            name, offset = os.fsencode(manifest.name(entry.line)), manifest.start(entry.line)
            file.writelines(b"%s\t%d\t%d\n" % (name, frames, offset + first) for first, frames in entry.found.segments)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, output)


def _tasks(manifest: Manifest, lines: np.ndarray) -> list[list[int]]:
    """Divide lines into tasks, the longest recordings first, so that no worker gets a long one at the end."""
    order = lines[np.argsort(-manifest.sizes[lines], kind="stable")]
    numbers = np.cumsum(manifest.sizes[order]) // _TASK
    return [part.tolist() for part in np.split(order, np.flatnonzero(np.diff(numbers)) + 1) if len(part)]


def _found(
    manifest: Manifest,
    lines: np.ndarray,
    settings: CutSettings,
    workers: int,
    journal: Journal,
    tick: Callable[[], None],
) -> Iterator[list[Entry]]:
    """Yield the entries of each task when it is finished; nothing now and then, while none is."""
    if workers <= 1:
        detector = Detector()
        for task in _tasks(manifest, lines):
            yield from ([_entry(manifest, line, detector, settings, tick)] for line in task)
        return
    # forked, as data-loading workers are: they need nothing that a fork breaks, and importing torch again takes seconds
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, fork, _start, (manifest, settings, journal))
    tasks = iter(_tasks(manifest, lines))
    running: set[Future[list[Entry]]] = set()
    try:
        while True:
            for task in tasks:
                running.add(pool.submit(_do, task))
                if len(running) >= 2 * workers:
                    break
            if not running:
                return
            finished, running = wait(running, _TICK, FIRST_COMPLETED)
            yield [entry for future in finished for entry in future.result()]
    except BrokenProcessPool as error:
        raise ValueError(
            f"one of the {workers} workers (--workers) was killed or could not start, usually for lack of memory. "
            "Rerun the command: it continues. Lower --workers if it happens again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _entry(
    manifest: Manifest,
    line: int,
    detector: Detector,
    settings: CutSettings,
    tick: Callable[[], None] = lambda: None,
) -> Entry:
    try:
        place, start, frames = manifest.file(line), manifest.start(line), int(manifest.sizes[line])
        return Entry(line, cut(place, start, frames, detector, settings, tick))
    except UnreadableAudio as error:
        return Entry(line, None, str(error))


class _Worker(NamedTuple):
    manifest: Manifest
    detector: Detector
    settings: CutSettings


_worker: list[_Worker] = []  # one per process of the pool


def _start(manifest: Manifest, settings: CutSettings, journal: Journal) -> None:
    signals.end_with_parent()
    journal.close()  # otherwise the lock would outlive the process that writes it
    _worker[:] = [_Worker(manifest, Detector(), settings)]


def _do(lines: Sequence[int]) -> list[Entry]:
    manifest, detector, settings = _worker[0]
    return [_entry(manifest, line, detector, settings) for line in lines]
