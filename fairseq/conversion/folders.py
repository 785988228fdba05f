"""Folders of other tools, whichever it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fairseq.conversion import huggingface, torchaudio_model
from fairseq.conversion.speech_model import SpeechModel


def is_folder(path: str | os.PathLike) -> bool:
    """Whether this is a folder of transformers, or of torchaudio's weights as `torchaudio_model` writes them."""
    return torchaudio_model.is_folder(path) or huggingface.is_folder(path)


def read(path: str | os.PathLike, read_pickle: Callable[[str], Any]) -> SpeechModel:
    """The model in a folder.

    Args:
        read_pickle: opens files of torch: the restricted reader of checkpoints.
    Raises:
        ValueError: it has no counterpart here, or its files are damaged or missing.
    """
    return (torchaudio_model if torchaudio_model.is_folder(path) else huggingface).read(path, read_pickle)
