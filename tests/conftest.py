"""Fixtures shared by all tests."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fairseq import device as device_layer
from tests.warm import Warm

REPOSITORY = Path(__file__).resolve().parents[1]
FAKES = REPOSITORY / "tests/fakes"  # PYTHONPATH for commands that need the stand-in of the vendor's package
SHARED = REPOSITORY.parent / "shared"


def _transformers_run() -> bool:
    """Whether transformers supports this torch; its newest releases otherwise import, but have no models."""
    if importlib.util.find_spec("transformers") is None:
        return False
    return importlib.import_module("transformers").utils.is_torch_available()


NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "transformers": (_transformers_run, "transformers is not installed, or does not support this torch"),
    "lazy": (lambda: hasattr(torch.library, "get_kernel"), "the lazy device needs torch 2.9"),
    "override": (
        lambda: "allow_override" in inspect.signature(torch.library.Library.impl).parameters,
        "this torch cannot override its own kernels",
    ),
    "traced functions": (
        lambda: torch.__version__ >= (2, 6),
        "torch 2.5's compiler fails an internal assertion in the stand-in's attention, a Python autograd function",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use a process through a fixture `process`, and those of transformers, whose import is slow."""
    for item in items:
        if "warm" in getattr(item, "fixturenames", ()):
            item.add_marker("process")
        if any(mark.args[0] == "transformers" for mark in item.iter_markers("needs")):
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `@pytest.mark.needs(NAME)` if NAME is not available."""
    for mark in item.iter_markers("needs"):
        is_there, reason = NEEDS[mark.args[0]]
        if not is_there():
            pytest.skip(reason)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data next to the checkout; tests that use it are skipped if it is missing."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared next to this checkout")
    return SHARED


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that has imported the package, for tests of commands that do not test their start."""
    with Warm() as process:
        yield process


@pytest.fixture()
def fake_habana(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Put the stand-in for the vendor's package on `sys.path`, yield its recorder, and undo everything afterwards."""
    for name in [name for name in os.environ if name.startswith(("PT_", "HABANA_", "HLS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(FAKES))
    variables, known = dict(os.environ), set(sys.modules)
    devices, init_process_group = dict(device_layer._DEVICES), torch.distributed.init_process_group
    importlib.invalidate_caches()
    yield importlib.import_module("habana_frameworks.recorder")
    recorder = sys.modules["habana_frameworks.recorder"]
    atexit.unregister(recorder._write)
    for put_back in reversed(recorder.undo):
        put_back()
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
