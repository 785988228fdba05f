"""A dictionary of a few letters, and log-probabilities made by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from fairseq.decoding import Tokens

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "C"]


@pytest.fixture
def tokens() -> Tokens:
    return Tokens.from_symbols(SYMBOLS)


@pytest.fixture
def emit() -> Callable[[str], np.ndarray]:
    """Log-probabilities of a path, a letter a frame ("-" is the blank), each with probability 0.9."""

    def make(path: str) -> np.ndarray:
        probabilities = np.full((len(path), len(SYMBOLS)), 0.1 / (len(SYMBOLS) - 1))
        for frame, symbol in enumerate(path):
            probabilities[frame, 0 if symbol == "-" else SYMBOLS.index(symbol)] = 0.9
        return np.log(probabilities).astype(np.float32)

    return make


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    """Runs of a path without blanks."""
    return tuple(token for token, _ in itertools.groupby(path) if token != 0)
