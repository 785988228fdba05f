"""Fixtures shared by all tests."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fairseq import device as device_layer

REPOSITORY = Path(__file__).resolve().parents[1]
FAKES = REPOSITORY / "tests/fakes"  # PYTHONPATH for commands that are to find the stand-in
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference numbers and speech beside a checkout; tests that want it are skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED


@pytest.fixture()
def fake_habana(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in for the vendor's package on `sys.path`, and a process that forgets it afterwards; gives its recorder."""
    for name in [name for name in os.environ if name.startswith(("PT_", "HABANA_", "HLS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(FAKES))
    variables, known = dict(os.environ), set(sys.modules)
    devices, init_process_group = dict(device_layer._DEVICES), torch.distributed.init_process_group
    importlib.invalidate_caches()
    yield importlib.import_module("habana_frameworks.recorder")
    atexit.unregister(sys.modules["habana_frameworks.recorder"]._write)
    for name in set(sys.modules) - known:
        if name.split(".")[0] == "habana_frameworks" or name == "torch.hpu":
            del sys.modules[name]
    if hasattr(torch, "hpu"):
        del torch.hpu
    torch.distributed.init_process_group = init_process_group
    device_layer._DEVICES.clear()
    device_layer._DEVICES.update(devices)
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)
