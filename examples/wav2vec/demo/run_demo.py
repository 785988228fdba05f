#!/usr/bin/env python3
"""Run the demo: corpus, manifest, pre-training, report; then fine-tuning, decoding, report. `make demo` calls it.

    python run_demo.py [--seed 1] [--output demo_output] [--data FOLDER] [--fine-tuning "OVERRIDE ..."]
        [-- overrides of the pre-training]

With your own recordings (--data), which have no transcripts, the demo ends after the first report.

Finished steps are skipped, so an interrupted demo continues where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import sys
from pathlib import Path

import report
import report_recognition
from recognition import LEFT_OUT, fine_tune_and_decode
from steps import Steps, run, train

HERE = Path(__file__).resolve().parent
MANIFEST_SCRIPT = HERE.parent / "wav2vec_manifest.py"
CONFIG = HERE.parent / "config" / "pretraining" / "wav2vec2_demo.yaml"
CORPUS_SEED = 1  # the demo's seed is the training's; all its runs share one corpus
VALID_PERCENT = 0.1  # share of the user's own files
EXTENSIONS = "flac,wav,ogg,opus,mp3,aiff,au"
STEPS_OF_FIRST_HALF = 4
STEPS = STEPS_OF_FIRST_HALF + 4
WITHOUT_TRANSCRIPTS = (
    "The demo ends here: its second half, fine-tuning and decoding, needs transcripts, which a folder of recordings "
    "does not have.\n`make demo` without DATA shows it on the synthetic corpus; README.md explains how to fine-tune on "
    "your own transcripts."
)


def make_corpus(folder: Path) -> None:
    """Make the synthetic corpus, under a temporary name until it is complete.

    A corpus of an older demo, without labelled data, is replaced.
    """
    if (folder / "labelled").exists():
        print(f"{folder} already exists")
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    run([sys.executable, str(HERE / "make_corpus.py"), str(partial), "--seed", str(CORPUS_SEED)])
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_manifest(root: Path, dest: Path, valid_percent: float, extensions: str) -> None:
    options = ["--dest", str(dest), "--ext", extensions, "--valid-percent", str(valid_percent)]
    run([sys.executable, str(MANIFEST_SCRIPT), str(root), *options])


def corpus_manifest(corpus: Path, manifest: Path) -> None:
    """Write manifests of the corpus's train and valid splits, which have different voices."""
    apart = manifest / "valid"
    write_manifest(corpus / "train", manifest, 0, "flac")
    write_manifest(corpus / "valid", apart, 0, "flac")
    (apart / "train.tsv").replace(manifest / "valid.tsv")
    shutil.rmtree(apart)


def folder_manifest(data: Path, manifest: Path) -> None:
    """Write manifests of the user's folder; one file in ten, but at least one, is for validation.

    Raises:
        ValueError: the folder has fewer than two readable files.
    """
    write_manifest(data, manifest, VALID_PERCENT, EXTENSIONS)
    train, valid = manifest / "train.tsv", manifest / "valid.tsv"
    root, *files = train.read_text(encoding="utf-8").splitlines()
    held_back = valid.read_text(encoding="utf-8").splitlines()[1:] if valid.is_file() else []
    if len(files) + len(held_back) < 2:
        raise ValueError(
            f"{data} has {len(files) + len(held_back)} readable audio files ({EXTENSIONS}); the demo needs at least two"
        )
    if not held_back:
        held_back = [files.pop()]
    elif not files:
        files = [held_back.pop()]
    for path, entries in ((train, files), (valid, held_back)):
        path.write_text("\n".join([root, *entries]) + "\n", encoding="utf-8")


def prepare(data: Path | None, output: Path, steps: Steps) -> Path:
    """Do everything before training; returns the folder of the manifests and, later, the runs."""
    if data is None:
        steps.begin("corpus", "corpus: synthetic speech in many voices")
        make_corpus(output / "corpus")
        place = output / "on_corpus"
    else:
        steps.begin("corpus", f"corpus: {data}")
        if not data.is_dir():
            raise ValueError(f"the folder {data} (DATA) does not exist")
        place = output / f"on_{data.name}-{hashlib.sha256(str(data).encode()).hexdigest()[:8]}"
    steps.begin("manifest", "manifest: files for training and for validation")
    manifest, partial = place / "manifest", place / "manifest.partial"
    if manifest.exists():
        print(f"{manifest} already exists; remove {place} to start over")
        return place
    shutil.rmtree(partial, ignore_errors=True)
    if data is None:
        corpus_manifest(output / "corpus", partial)
    else:
        folder_manifest(data, partial)
    partial.rename(manifest)
    return place


def pretrain(place: Path, seed: int, resample: bool, overrides: list[str], steps: Steps) -> Path:
    """Pre-train, or resume; returns the folder of the checkpoints."""
    steps.begin("pre-training", "pre-training")
    save_dir = place / f"seed-{seed}"
    settings = ["task.resample=true"] if resample else []
    train(CONFIG, place / "manifest", save_dir, seed, [*settings, *overrides])
    return save_dir


def next_steps(checkpoint: Path) -> str:
    """Return commands to try after the demo, relative to the current folder."""
    activate = Path(sys.prefix, "bin", "activate")
    lines = ["Next:"]
    if sys.prefix != sys.base_prefix and activate.is_file():
        inside = activate.is_relative_to(Path.cwd())
        lines.append(
            f"  source {activate.relative_to(Path.cwd()) if inside else activate}    # puts the fairseq commands on "
            "your PATH"
        )
    lines.append("  fairseq-hydra-train --help")
    if checkpoint.name == "checkpoint_best.pt":
        lines.append(f"  fairseq-transcribe --path {checkpoint} RECORDING.wav")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="seed of the training (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="output folder (default: demo_output)")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of recordings, of any sample rate, to train on instead of the synthetic corpus",
    )
    parser.add_argument(
        "--fine-tuning",
        default="",
        metavar="OVERRIDES",
        help="overrides of the fine-tuning config, separated by spaces",
    )
    parser.add_argument(
        "overrides", nargs="*", help="overrides of the pre-training config, such as optimization.max_update=1000"
    )
    args = parser.parse_args()
    steps = Steps(STEPS if args.data is None else STEPS_OF_FIRST_HALF)
    try:
        place = prepare(args.data.resolve() if args.data else None, args.output, steps)
        save_dir = pretrain(place, args.seed, args.data is not None, args.overrides, steps)
        steps.begin("report", "results of pre-training")
        learned = report.read_run(save_dir, "valid")
        print(report.describe(learned))
        if args.data is not None:
            print(f"\n{steps.summary()}\n\n{WITHOUT_TRANSCRIPTS}\n{next_steps(learned.checkpoint)}")
            return 0  # the user's folder can be too small to learn from; that is not a failure of the demo
        overrides = shlex.split(args.fine_tuning)
        decoded = fine_tune_and_decode(args.output / "corpus", place, args.seed, learned.checkpoint, overrides, steps)
        steps.begin("report", "results of fine-tuning")
        found = report_recognition.read_decoded(decoded.greedy, decoded.words)
    except ValueError as error:
        raise SystemExit(f"the demo stopped: {error}") from None
    print(report_recognition.describe(found))
    if decoded.words is None:
        print(LEFT_OUT)
    print(f"\n{steps.summary()}\n\n{next_steps(decoded.checkpoint)}")
    missing = learned.shortfalls() + found.shortfalls()
    if missing:
        print(f"\nThe demo did not reach the expected results: {'; '.join(missing)}.")
    return 1 if missing else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        raise SystemExit("the demo was interrupted. Run `make demo` again to continue.") from None
