"""The demo's second half: labels, a language model, CTC fine-tuning, and decoding of unseen voices."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from steps import Steps, program, run, train

from fairseq import device
from fairseq.installed import advice

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent
CONFIG = SCRIPTS / "config" / "finetuning" / "demo_20m.yaml"
SPLITS = ("train", "valid", "test")  # fine-tuning, choosing its checkpoint, decoding: no voice is in two of them
LEFT_OUT = f"Skipped: decoding with lexicon and language model. It needs KenLM: {advice('decode')}"


class Decoded(NamedTuple):
    """Folders of fairseq-infer's results, and the checkpoint used."""

    checkpoint: Path
    greedy: Path
    words: Path | None  # with lexicon and language model; None: skipped


def fine_tune_and_decode(
    corpus: Path, place: Path, seed: int, pretrained: Path, overrides: list[str], steps: Steps
) -> Decoded:
    """Run the steps of the second half.

    Args:
        corpus: folder made by make_corpus.py.
        place: folder of the runs.
        pretrained: checkpoint to start from.
        overrides: further overrides of the fine-tuning config.
    """
    steps.begin("labels", "labels from the transcripts, and a language model from other sentences")
    labels = prepare(corpus, place)
    steps.begin("fine-tuning", f"fine-tuning {pretrained.name} on letters")
    save_dir = fine_tune(labels, place / f"seed-{seed}-fine-tuned", seed, pretrained, overrides)
    steps.begin("decoding", "decoding voices that were not used for fine-tuning or for choosing the checkpoint")
    return decode(labels, save_dir)


def prepare(corpus: Path, place: Path) -> Path:
    """Make manifests, labels, dictionary, language model and lexicon; returns their folder."""
    labels, partial = place / "labels", place / "labels.partial"
    if labels.exists():
        print(f"{labels} already exists")
        return labels
    shutil.rmtree(partial, ignore_errors=True)
    for split in SPLITS:
        apart = partial / split
        run(
            script(
                "wav2vec_manifest.py",
                corpus / "labelled" / split,
                "--dest",
                apart,
                "--ext",
                "flac",
                "--valid-percent",
                0,
            )
        )
        (apart / "train.tsv").replace(partial / f"{split}.tsv")
        shutil.rmtree(apart)
    run(script("prepare_labels.py", *(partial / f"{split}.tsv" for split in SPLITS), "--layout", "librispeech"))
    text = partial / "sentences.txt"
    run(script("demo/sentences.py"), output=text)
    run(script("make_ngram.py", text, "--output", partial / "words.arpa", "--lexicon", partial / "lexicon.txt"))
    partial.rename(labels)
    return labels


def script(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPTS / name), *map(str, arguments)]


def fine_tune(labels: Path, save_dir: Path, seed: int, pretrained: Path, overrides: list[str]) -> Path:
    """Fine-tune, or resume; returns the folder of the checkpoints."""
    settings = [f"model.w2v_path={pretrained}"]
    if not torch.cuda.is_available() and device.get("cpu").bf16_is_fast():
        settings.append("common.bf16=true")
    train(CONFIG, labels, save_dir, seed, [*settings, *overrides])
    return save_dir


def decode(labels: Path, save_dir: Path) -> Decoded:
    """Decode the test split greedily and, if KenLM is installed, with beam search."""
    checkpoint = save_dir / "checkpoint_best.pt"
    infer(labels, save_dir, save_dir / "greedy")
    if not can_search():
        print(f"\n{LEFT_OUT}")
        return Decoded(checkpoint, save_dir / "greedy", None)
    infer(
        labels,
        save_dir,
        save_dir / "words",
        "--lexicon",
        str(labels / "lexicon.txt"),
        "--lm",
        str(labels / "words.arpa"),
    )
    return Decoded(checkpoint, save_dir / "greedy", save_dir / "words")


def infer(labels: Path, save_dir: Path, results: Path, *options: str) -> None:
    """Run fairseq-infer on the test split, unless its results are newer than the checkpoint."""
    checkpoint, done = save_dir / "checkpoint_best.pt", results / "results.json"
    if done.is_file() and done.stat().st_mtime >= checkpoint.stat().st_mtime:
        print(f"{results} already exists")
        return
    command = [
        *program("fairseq-infer", "fairseq_cli.infer"),
        str(labels),
        "--path",
        str(checkpoint),
        "--gen-subset",
        "test",
    ]
    run([*command, "--results-path", str(results), *options])


def can_search() -> bool:
    """Return whether the extra `decode` is installed."""
    try:
        import kenlm  # noqa: F401
    except ImportError:
        return False
    return True
