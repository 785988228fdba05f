#!/usr/bin/env python3
"""The demo: corpus, manifest, pre-training through fairseq-hydra-train, report. `make demo` calls it.

    python run_demo.py [--seed 1] [--output demo_output] [--data FOLDER] [-- overrides of the config]

Each step that is done already is not done again, so an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import report

HERE = Path(__file__).resolve().parent
MANIFEST_SCRIPT = HERE.parent / "wav2vec_manifest.py"
CONFIG_DIR = HERE.parent / "config" / "pretraining"
CONFIG_NAME = "wav2vec2_demo"
CORPUS_SEED = 1  # the demo's seed is the training's; all its runs share one corpus
VALID_PERCENT = 0.1  # of the user's own files
EXTENSIONS = "flac,wav,ogg,opus,mp3,aiff,au"


def run(command: list[str]) -> None:
    """Runs a command of the demo, shown as the user could type it; its failure ends the demo."""
    print("\n$", " ".join(command), flush=True)
    code = subprocess.run(command).returncode
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise SystemExit(f"the demo stopped: the command above {how}. Typed again, `make demo` goes on from there.")


def step(number: int, text: str) -> None:
    print(f"\n=== {number}/4 {text}", flush=True)


def make_corpus(folder: Path) -> None:
    """The synthetic corpus, under a temporary name until it is whole."""
    if folder.exists():
        print(f"{folder} is there already")
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    run([sys.executable, str(HERE / "make_corpus.py"), str(partial), "--seed", str(CORPUS_SEED)])
    partial.rename(folder)


def write_manifest(root: Path, dest: Path, valid_percent: float, extensions: str) -> None:
    options = ["--dest", str(dest), "--ext", extensions, "--valid-percent", str(valid_percent)]
    run([sys.executable, str(MANIFEST_SCRIPT), str(root), *options])


def corpus_manifest(corpus: Path, manifest: Path) -> None:
    """Manifests of the corpus's own two splits, whose voices differ."""
    apart = manifest / "valid"
    write_manifest(corpus / "train", manifest, 0, "flac")
    write_manifest(corpus / "valid", apart, 0, "flac")
    (apart / "train.tsv").replace(manifest / "valid.tsv")
    shutil.rmtree(apart)


def folder_manifest(data: Path, manifest: Path) -> None:
    """Manifests of the user's folder; one in ten files, and one at least, is kept for validation.

    Raises:
        ValueError: fewer than two readable files.
    """
    write_manifest(data, manifest, VALID_PERCENT, EXTENSIONS)
    train, valid = manifest / "train.tsv", manifest / "valid.tsv"
    root, *files = train.read_text(encoding="utf-8").splitlines()
    held_back = valid.read_text(encoding="utf-8").splitlines()[1:] if valid.is_file() else []
    if len(files) + len(held_back) < 2:
        raise ValueError(f"{data} holds {len(files) + len(held_back)} readable audio files ({EXTENSIONS}); the demo needs two at least")
    if not held_back:
        held_back = [files.pop()]
    elif not files:
        files = [held_back.pop()]
    for path, entries in ((train, files), (valid, held_back)):
        path.write_text("\n".join([root, *entries]) + "\n", encoding="utf-8")


def prepare(data: Path | None, output: Path) -> Path:
    """Everything before training; returns the folder that holds the manifests and, later, the runs."""
    if data is None:
        step(1, "corpus: synthetic speech of many voices")
        make_corpus(output / "corpus")
        place = output / "on_corpus"
    else:
        step(1, f"corpus: {data}")
        if not data.is_dir():
            raise ValueError(f"DATA is {data}: there is no such folder")
        place = output / f"on_{data.name}-{hashlib.sha256(str(data).encode()).hexdigest()[:8]}"
    step(2, "manifest: which files train, which validate")
    manifest, partial = place / "manifest", place / "manifest.partial"
    if manifest.exists():
        print(f"{manifest} is there already; remove {place} to begin anew")
        return place
    shutil.rmtree(partial, ignore_errors=True)
    if data is None:
        corpus_manifest(output / "corpus", partial)
    else:
        folder_manifest(data, partial)
    partial.rename(manifest)
    return place


def train(place: Path, seed: int, resample: bool, overrides: list[str]) -> Path:
    """Pre-trains, or goes on; returns the folder with the checkpoints."""
    step(3, "pre-training")
    save_dir = place / f"seed-{seed}"
    script = Path(sys.executable).with_name("fairseq-hydra-train")
    program = [str(script)] if script.is_file() else [sys.executable, "-m", "fairseq_cli.hydra_train"]
    settings = [f"task.data={place / 'manifest'}", f"checkpoint.save_dir={save_dir}", f"common.seed={seed}"]
    if resample:
        settings.append("task.resample=true")
    start = time.perf_counter()
    run([*program, *settings, *overrides, "--config-dir", str(CONFIG_DIR), "--config-name", CONFIG_NAME])
    seconds = round(time.perf_counter() - start)
    print(f"training took {seconds // 60} min {seconds % 60} s")
    return save_dir


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of the training (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="where everything is written (default: demo_output)")
    parser.add_argument("--data", type=Path, help="folder of recordings to train on instead of the made corpus; any sample rate")
    parser.add_argument("overrides", nargs="*", help="further overrides of the config, such as optimization.max_update=1000")
    args = parser.parse_args()
    try:
        place = prepare(args.data.resolve() if args.data else None, args.output)
        save_dir = train(place, args.seed, args.data is not None, args.overrides)
        step(4, "report")
        learned = report.read_run(save_dir, "valid")
    except ValueError as error:
        raise SystemExit(f"the demo stopped: {error}") from None
    print(report.describe(learned))
    # a folder of the user's own may be too small to learn from, which is no failure of the demo
    return 1 if learned.shortfalls() and args.data is None else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        raise SystemExit("the demo was interrupted. Typed again, `make demo` goes on from there.") from None
