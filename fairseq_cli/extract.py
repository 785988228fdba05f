"""`fairseq-extract`: features or codes of a manifest's files, with the time of each frame, to .npy or .parquet.

    fairseq-extract DATA --path CHECKPOINT --gen-subset train --feature 8 --output-dir features
    fairseq-extract DATA --path CHECKPOINT --feature codes --feature 11 --format parquet --num-workers 4 --output-dir features

What is written already is left as it is: the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq.data.audio.manifest import Manifest
from fairseq.device.base import available_cores
from fairseq.inference import feature_files
from fairseq.inference.features import NAMED, checked, extract_source, frame_seconds
from fairseq.inference.model import PRECISIONS, SpeechModel
from fairseq.inference.windows import WindowSettings
from fairseq_cli.infer import DICTIONARY_HELP, set_up_logging

logger = logging.getLogger("fairseq_cli.extract")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-extract", description=__doc__.split("\n")[0].split(": ", 1)[1])
    parser.add_argument("data", help="folder of the manifest")
    parser.add_argument("--path", required=True, help="checkpoint, pre-trained or fine-tuned")
    parser.add_argument("--dict", help=DICTIONARY_HELP)
    parser.add_argument("--gen-subset", default="train", help="name of the manifest (default: train)")
    parser.add_argument(
        "--feature", action="append", help=f"a block by number (0: the first one's output), or {', '.join(NAMED)}; again for more "
        "(default: context)",
    )  # fmt: skip
    parser.add_argument("--output-dir", required=True, help="folder for the features, with the manifest's paths in it")
    parser.add_argument("--format", choices=feature_files.KINDS, default="npy", help="default: npy")
    parser.add_argument("--num-workers", type=int, default=1, help="processes, each with its own model (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda ...")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    windows = WindowSettings()
    parser.add_argument("--window", type=float, default=windows.seconds, help=f"seconds of a window (default: {windows.seconds:g})")
    parser.add_argument("--overlap", type=float, default=windows.overlap, help=f"of windows, in seconds (default: {windows.overlap:g})")
    return parser


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Extract as `args` say; returns counts and the files that gave an error.

    Raises:
        ValueError: the checkpoint or the manifest cannot be read, there is no such feature, two files would be written under one name, or
            the folder holds other features.
    """
    began = time.perf_counter()
    args.feature = args.feature or ["context"]
    feature_files.check_kind(args.format)
    manifest = Manifest(os.path.join(args.data, f"{args.gen_subset}.tsv"))
    manifest.check_root()
    _check_targets(args, manifest)
    model = _load(args)
    args.feature = checked(model, args.feature)
    feature_files.claim(Path(args.output_dir), _form(args, manifest, model))
    waiting = [i for i in range(len(manifest)) if not feature_files.is_done(_target(args, manifest, i), args.feature)]
    logger.info("%d files, %d of them done before", len(manifest), len(manifest) - len(waiting))
    parts = [waiting[first :: max(1, args.num_workers)] for first in range(max(1, args.num_workers))]
    parts = [part for part in parts if part]
    if len(parts) <= 1:
        results = [work(args, part, model) for part in parts]
    else:
        with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:  # forked processes cannot use torch's threads or GPUs
            results = pool.starmap(load_and_work, [(args, part, max(1, available_cores() // len(parts))) for part in parts])
    errors = [error for _, found in results for error in found]
    for name, error in errors:
        logger.warning("%s: %s", name, error)
    seconds = round(time.perf_counter() - began, 2)
    counts = {"files": len(manifest), "done_before": len(manifest) - len(waiting), "written": sum(count for count, _ in results)}
    return {**counts, "errors": dict(errors), "seconds": seconds}


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


def load_and_work(args: argparse.Namespace, indices: Sequence[int], threads: int) -> tuple[int, list[tuple[str, str]]]:
    """`work` in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    return work(args, indices, _load(args))


def _load(args: argparse.Namespace) -> SpeechModel:
    return SpeechModel.load(args.path, args.device, args.precision, {"data": args.data}, args.dict)


def work(args: argparse.Namespace, indices: Sequence[int], model: SpeechModel) -> tuple[int, list[tuple[str, str]]]:
    """Extract these files; (files written, (name, error) of the others)."""
    manifest = Manifest(os.path.join(args.data, f"{args.gen_subset}.tsv"))
    settings = WindowSettings(args.window, args.overlap)
    facts = {"checkpoint": os.fspath(args.path), "sample_rate": model.sample_rate, "window": args.window, "overlap": args.overlap}
    written, errors = 0, []
    for index in indices:
        try:
            found = extract_source(model, model.open(manifest.file(index)), args.feature, settings)
        except (ValueError, OSError) as error:
            errors.append((manifest.name(index), str(error)))
            continue
        seconds = frame_seconds(model, len(next(iter(found.values()))))
        feature_files.write(_target(args, manifest, index), found, seconds, {**facts, "file": manifest.name(index)})
        written += 1
    return written, errors


def _target(args: argparse.Namespace, manifest: Manifest, index: int) -> Path:
    return feature_files.target(Path(args.output_dir), manifest.name(index), args.format)


def _check_targets(args: argparse.Namespace, manifest: Manifest) -> None:
    seen: dict[Path, str] = {}
    for index in range(len(manifest)):
        path, name = _target(args, manifest, index), manifest.name(index)
        if path in seen:
            raise ValueError(f"{seen[path]} and {name} of {manifest.path} would both be written to {path}")
        seen[path] = name


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
