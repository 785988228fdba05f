"""Models of random weights, in memory and as checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq.inference.model import SpeechModel
from tests.small_speech import own_log_handlers, write_checkpoint

__all__ = ["checkpoint", "model", "own_log_handlers", "pretrained_checkpoint"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fine-tuned") / "model.pt")


@pytest.fixture(scope="session")
def pretrained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pre-trained") / "model.pt", fine_tuned=False)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> SpeechModel:
    return SpeechModel.load(checkpoint, precision="fp32")
