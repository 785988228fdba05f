"""Models of random weights, in memory and as checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_speech import write_checkpoint

from fairseq.inference.model import SpeechModel


@pytest.fixture(autouse=True)
def own_log_handlers() -> Iterator[None]:
    """Commands put a handler on standard error, which is the test's own."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fine-tuned") / "model.pt")


@pytest.fixture(scope="session")
def pretrained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pre-trained") / "model.pt", fine_tuned=False)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> SpeechModel:
    return SpeechModel.load(checkpoint, precision="fp32")
