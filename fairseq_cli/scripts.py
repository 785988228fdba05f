"""`fairseq-manifest`, `fairseq-libri-labels`, `fairseq-prepare-labels`, `fairseq-make-ngram`: the scripts of
examples/wav2vec as commands.

An installed package has them under fairseq/examples, which in a checkout is a link to examples.
"""

from __future__ import annotations

import importlib
import sys


def _run(command: str, script: str) -> None:
    """Run examples/wav2vec/<script>.py as `command`; its mistakes are reported under that name."""
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
    """Make an n-gram language model of a text."""
    _run("fairseq-make-ngram", "make_ngram")
