"""The scripts of examples/wav2vec as commands: fairseq-manifest, -libri-labels, -prepare-labels, -make-ngram.

In an installed package they are in fairseq/examples, which in a checkout is a link to examples.
"""

from __future__ import annotations

import importlib
import sys


def _run(command: str, script: str) -> None:
    """Run examples/wav2vec/<script>.py as `command`; error messages start with that name."""
    sys.argv[0] = command
    module = importlib.import_module(f"fairseq.examples.wav2vec.{script}")
    try:
        sys.exit(module.main(module.get_parser().parse_args()))
    except (ValueError, OSError) as error:
        sys.exit(f"{command}: {error}")


def manifest() -> None:
    """Make the manifests of a folder of audio."""
    _run("fairseq-manifest", "wav2vec_manifest")


def libri_labels() -> None:
    """Make the labels of LibriSpeech manifests."""
    _run("fairseq-libri-labels", "libri_labels")


def prepare_labels() -> None:
    """Make labels and dictionaries from the transcripts of any corpus."""
    _run("fairseq-prepare-labels", "prepare_labels")


def make_ngram() -> None:
    """Make an n-gram language model from a text."""
    _run("fairseq-make-ngram", "make_ngram")
