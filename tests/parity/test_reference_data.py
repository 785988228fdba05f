"""The reference in this repository against the full one, if that is available."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity import reference_data
from tests.parity.test_reference_models import GRADIENTS


def test_is_small() -> None:
    assert sum(path.stat().st_size for path in reference_data.DATA.iterdir()) < 2_000_000


@pytest.mark.parametrize("name", reference_data.MODELS)
def test_equals_the_full_reference(name: str, shared_dir: Path) -> None:
    folder = shared_dir / "reference" / "parity"
    stored = reference_data.load(name)
    full = torch.load(folder / f"{name}.pt", weights_only=True)
    assert stored.model_config == json.loads(json.dumps(full["cfg"]["model"]))  # tuples become lists
    assert list(stored.weights) == list(full["model"])
    assert all(torch.equal(value, full["model"][key]) for key, value in stored.weights.items())
    with np.load(folder / f"{name}.npz") as file:
        assert set(stored.arrays) == set(file.files)
        for key in file.files:
            ours, theirs = np.asarray(stored.arrays[key]), file[key]
            if key.startswith("grad/"):
                assert np.abs(ours - theirs).max() <= GRADIENTS / 5 * np.abs(theirs).max(), key
            else:
                assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), key


@pytest.mark.parametrize("name", ["lr_schedules", "state_dicts", "wav2vec2_config_defaults"])
def test_json_equals_the_full_reference(name: str, shared_dir: Path) -> None:
    assert reference_data.load_json(name) == json.loads(
        (shared_dir / "reference" / "parity" / f"{name}.json").read_text()
    )
