from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def demo_dir(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's folder, from which its scripts can be imported."""
    folder = repository / "examples" / "wav2vec" / "demo"
    monkeypatch.syspath_prepend(str(folder))
    return folder
