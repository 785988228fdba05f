"""`fairseq-extract`: features or codes of a manifest's files, with the time of each frame, to .npy or .parquet.

    fairseq-extract DATA --path CHECKPOINT --gen-subset train --feature 8 --output-dir features
    fairseq-extract DATA --path CHECKPOINT --feature codes --feature 11 --format parquet --num-workers 4 --output-dir
    features

What is written already is left as it is: the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from fairseq.data.audio.manifest import Manifest
from fairseq.device.base import available_cores
from fairseq.inference import feature_files
from fairseq.inference.features import NAMED, checked, extract_source, frame_seconds
from fairseq.inference.model import PRECISIONS, SpeechModel
from fairseq.inference.progress import SECONDS, Progress
from fairseq.inference.windows import WindowSettings
from fairseq_cli.decoder_arguments import DICTIONARY_HELP, set_up_logging

logger = logging.getLogger("fairseq_cli.extract")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-extract", description=__doc__.split("\n")[0].split(": ", 1)[1])
    parser.add_argument("data", help="folder of the manifest")
    parser.add_argument("--path", required=True, help="checkpoint, pre-trained or fine-tuned")
    parser.add_argument("--dict", help=DICTIONARY_HELP)
    parser.add_argument("--gen-subset", default="train", help="name of the manifest (default: train)")
    parser.add_argument(
        "--feature",
        action="append",
        help=f"a block by number (0: the first one's output), or {', '.join(NAMED)}; again for more (default: context)",
    )
    parser.add_argument("--output-dir", required=True, help="folder for the features, with the manifest's paths in it")
    parser.add_argument("--format", choices=feature_files.KINDS, default="npy", help="default: npy")
    parser.add_argument("--num-workers", type=int, default=1, help="processes, each with its own model (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda ...")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    windows = WindowSettings()
    parser.add_argument(
        "--window", type=float, default=windows.seconds, help=f"seconds of a window (default: {windows.seconds:g})"
    )
    parser.add_argument(
        "--overlap", type=float, default=windows.overlap, help=f"of windows, in seconds (default: {windows.overlap:g})"
    )
    return parser


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Extract as `args` say; returns counts and the files that gave an error.

    Raises:
        ValueError: the checkpoint or the manifest cannot be read, there is no such feature, two files would be written
            under one name, or the folder holds other features or is being written to.
    """
    began = time.perf_counter()
    args.feature = args.feature or ["context"]
    feature_files.check_kind(args.format)
    manifest = Manifest(os.path.join(args.data, f"{args.gen_subset}.tsv"))
    manifest.check_root()
    logger.info("loading %s", args.path)
    model = _load(args)
    args.feature = checked(model, args.feature)
    recordings = [manifest.name(index) for index in range(len(manifest))]
    feature_files.check_outputs(Path(args.output_dir), recordings, args.feature, args.format, manifest.path)
    with feature_files.locked(Path(args.output_dir)):  # from here on the folder is there, and written to
        result = _extract(args, manifest, model)
    return {**result, "seconds": round(time.perf_counter() - began, 2)}


def _extract(args: argparse.Namespace, manifest: Manifest, model: SpeechModel) -> dict[str, Any]:
    feature_files.claim(Path(args.output_dir), _form(args, manifest, model))
    waiting = [i for i in range(len(manifest)) if not feature_files.is_done(_target(args, manifest, i), args.feature)]
    logger.info("%d files, %d of them done before", len(manifest), len(manifest) - len(waiting))
    errors: dict[int, str] = {}
    with Progress("extracting", len(waiting), "files") as progress:
        for index, error in _results(args, waiting, model, progress):
            progress.advance()
            if error is not None:
                errors[index] = error
    found = {manifest.name(index): errors[index] for index in sorted(errors)}
    for name, error in found.items():
        logger.warning("%s: %s", name, error)
    counts = {"files": len(manifest), "done_before": len(manifest) - len(waiting), "written": len(waiting) - len(found)}
    return {**counts, "errors": found}


def _results(
    args: argparse.Namespace, indices: Sequence[int], model: SpeechModel, progress: Progress
) -> Iterator[tuple[int, str | None]]:
    """(index, what is wrong or None) of each file, when it is done: one after the other, or by several processes."""
    processes = min(args.num_workers, len(indices))
    if processes <= 1:
        worker = Worker(args, model, progress.tick)
        yield from ((index, worker.extract(index)) for index in indices)
        return
    threads = max(1, available_cores() // processes)
    spawn = multiprocessing.get_context("spawn")  # forked processes cannot use torch's threads or GPUs
    pool = ProcessPoolExecutor(processes, spawn, _start, (args, threads))
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
            f"one of the {processes} processes (--num-workers) was killed or could not start; too little memory is "
            "the usual reason. The same command continues after the files that are written"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _form(args: argparse.Namespace, manifest: Manifest, model: SpeechModel) -> dict[str, Any]:
    """What the features in a folder depend on."""
    return {
        "root": os.path.realpath(manifest.root),
        "feature": args.feature,
        "format": args.format,
        "precision": model.precision,
        "window": args.window,
        "overlap": args.overlap,
        "checkpoint": feature_files.digest(args.path),
    }


def _load(args: argparse.Namespace) -> SpeechModel:
    return SpeechModel.load(args.path, args.device, args.precision, {"data": args.data}, args.dict)


class Worker:
    """Extracts files of the manifest, one at a time; `tick` is called for each window."""

    def __init__(self, args: argparse.Namespace, model: SpeechModel, tick: Callable[[], None] | None = None) -> None:
        self.args, self.model, self.tick = args, model, tick
        self.manifest = Manifest(os.path.join(args.data, f"{args.gen_subset}.tsv"))
        self.settings = WindowSettings(args.window, args.overlap)
        self.facts = {
            "checkpoint": os.fspath(args.path),
            "sample_rate": model.sample_rate,
            "window": args.window,
            "overlap": args.overlap,
        }

    def extract(self, index: int) -> str | None:
        """Write a file's features; what is wrong with its audio is returned."""
        try:
            source = self.model.open(self.manifest.file(index))
            found = extract_source(self.model, source, self.args.feature, self.settings, self.tick)
        except (ValueError, OSError) as error:
            return str(error)
        seconds = frame_seconds(self.model, len(next(iter(found.values()))))
        facts = {**self.facts, "file": self.manifest.name(index)}
        feature_files.write(_target(self.args, self.manifest, index), found, seconds, facts)
        return None


_worker: list[Worker] = []  # of a process of the pool


def _start(args: argparse.Namespace, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _worker.append(Worker(args, _load(args)))


def _extract_in_pool(index: int) -> tuple[int, str | None]:
    return index, _worker[0].extract(index)


def _target(args: argparse.Namespace, manifest: Manifest, index: int) -> Path:
    return feature_files.target(Path(args.output_dir), manifest.name(index), args.format)


def cli_main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    set_up_logging()
    try:
        result = main(args)
    except (ValueError, OSError) as error:
        print(f"fairseq-extract: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(cli_main())
