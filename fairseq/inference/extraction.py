"""Extract features of all files in a manifest with one or more processes; the code behind `fairseq-extract`."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from fairseq.data.audio.manifest import Manifest
from fairseq.device.base import available_cores
from fairseq.inference import feature_files
from fairseq.inference.features import checked, extract_source, frame_seconds
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import SECONDS, Progress
from fairseq.inference.windows import WindowSettings
from fairseq.stores import is_url

logger = logging.getLogger("fairseq_cli.extract")  # the name in the command's log lines


@dataclass(frozen=True)
class Extraction:
    """What to extract, and where to write it; every worker gets this and loads its own model."""

    data: str  # folder of the manifest
    checkpoint: str
    output: Path
    subset: str = "train"
    features: tuple[str, ...] = ("context",)
    kind: str = "npy"  # one of feature_files.KINDS
    dictionary: str | None = None
    device: str = "cpu"
    precision: str = "fp32"
    windows: WindowSettings = field(default_factory=WindowSettings)

    def manifest(self) -> Manifest:
        return Manifest(os.path.join(self.data, f"{self.subset}.tsv"))

    def load(self) -> SpeechModel:
        return SpeechModel.load(
            self.checkpoint, self.device, self.precision, {"data": self.data}, dictionary=self.dictionary
        )

    def target(self, manifest: Manifest, index: int) -> Path:
        return feature_files.target(self.output, manifest.utterance(index), self.kind)

    def form(self, manifest: Manifest, model: SpeechModel) -> dict[str, object]:
        """Return the settings that the features depend on."""
        return {
            "root": manifest.root if is_url(manifest.root) else os.path.realpath(manifest.root),
            "feature": list(self.features),
            "format": self.kind,
            "precision": model.precision,
            "window": self.windows.seconds,
            "overlap": self.windows.overlap,
            "checkpoint": feature_files.digest(self.checkpoint),
        }


class Extracted(NamedTuple):
    """Results of an extraction."""

    files: int
    done_before: int
    written: int
    errors: dict[str, str]  # by the utterance's name in the manifest
    seconds: float


def extract_all(extraction: Extraction, num_workers: int = 1) -> Extracted:
    """Extract features, skipping files that are already done.

    Args:
        num_workers: number of processes, each with its own model.
    Raises:
        ValueError: the checkpoint or manifest cannot be read, a feature does not exist, two recordings share an output
            file, the folder holds features made with other settings, or another process is writing to it.
    """
    began = time.perf_counter()
    feature_files.check_kind(extraction.kind)
    manifest = extraction.manifest()
    manifest.check_root()
    logger.info("loading %s", extraction.checkpoint)
    model = extraction.load()
    extraction = replace(extraction, features=tuple(checked(model, extraction.features)))
    recordings = [manifest.utterance(index) for index in range(len(manifest))]
    feature_files.check_outputs(
        extraction.output, recordings, extraction.features, extraction.kind, os.fspath(manifest.path)
    )
    with feature_files.locked(extraction.output):  # creates the folder
        feature_files.claim(extraction.output, extraction.form(manifest, model))
        found = _extract(extraction, manifest, model, num_workers)
    return found._replace(seconds=round(time.perf_counter() - began, 2))


def _extract(extraction: Extraction, manifest: Manifest, model: SpeechModel, num_workers: int) -> Extracted:
    count, features = len(manifest), extraction.features
    waiting = [i for i in range(count) if not feature_files.is_done(extraction.target(manifest, i), features)]
    logger.info("files: %d (already done: %d)", count, count - len(waiting))
    errors: dict[int, str] = {}
    with Progress("extracting", len(waiting), "files") as progress:
        for index, error in _results(extraction, waiting, model, num_workers, progress):
            progress.advance()
            if error is not None:
                errors[index] = error
    found = {manifest.utterance(index): errors[index] for index in sorted(errors)}
    for name, error in found.items():
        logger.warning("%s: %s", name, error)
    return Extracted(count, count - len(waiting), len(waiting) - len(found), found, 0.0)


def _results(
    extraction: Extraction, indices: Sequence[int], model: SpeechModel, num_workers: int, progress: Progress
) -> Iterator[tuple[int, str | None]]:
    """Yield (index, error or None) as each file finishes, in this process or in a pool of workers."""
    processes = min(num_workers, len(indices))
    if processes <= 1:
        worker = Worker(extraction, model, progress.tick)
        yield from ((index, worker.extract(index)) for index in indices)
        return
    threads = max(1, available_cores() // processes)
    spawn = multiprocessing.get_context("spawn")  # forked processes cannot use torch's threads or GPUs
    pool = ProcessPoolExecutor(processes, spawn, _start, (extraction, threads))
    finished: queue.SimpleQueue[Future[tuple[int, str | None]]] = queue.SimpleQueue()
    try:
        for index in indices:
            pool.submit(_extract_in_pool, index).add_done_callback(finished.put)
        left = len(indices)
        while left:
            try:
                yield finished.get(timeout=SECONDS).result()
                left -= 1
            except queue.Empty:
                progress.tick()
    except BrokenProcessPool as error:
        raise ValueError(
            f"one of the {processes} workers (--num-workers) was killed or could not start, usually for lack of "
            "memory. Lower --num-workers and rerun the command: it skips the files that are done"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class Worker:
    """Extract files of the manifest, one at a time; `tick` is called after each window."""

    def __init__(self, extraction: Extraction, model: SpeechModel, tick: Callable[[], None] | None = None) -> None:
        self.extraction, self.model, self.tick = extraction, model, tick
        self.manifest = extraction.manifest()
        self.facts = {
            "checkpoint": extraction.checkpoint,
            "sample_rate": model.sample_rate,
            "window": extraction.windows.seconds,
            "overlap": extraction.windows.overlap,
        }

    def extract(self, index: int) -> str | None:
        """Write a file's features; returns the error if its audio cannot be read, else None."""
        extraction = self.extraction
        try:
            source = self.model.open(self.manifest.audio(index))
            found = extract_source(self.model, source, extraction.features, extraction.windows, self.tick)
        except (ValueError, OSError) as error:
            return str(error)
        seconds = frame_seconds(self.model, len(next(iter(found.values()))))
        facts = {**self.facts, "file": self.manifest.utterance(index)}
        feature_files.write(extraction.target(self.manifest, index), found, seconds, facts)
        return None


_worker: list[Worker] = []  # one per process of the pool


def _start(extraction: Extraction, threads: int) -> None:
    torch.set_num_threads(threads)
    _worker.append(Worker(extraction, extraction.load()))


def _extract_in_pool(index: int) -> tuple[int, str | None]:
    return index, _worker[0].extract(index)
