"""A small corpus for the tests of data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.small_corpus import SIZES, write_corpus


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty files of 2400 to 6600 samples."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), SIZES)
