"""The device layer: the package's only interface to the hardware.

`base.Device` defines the interface and implements it for the CPU; `cuda` and `hpu` override what differs on a GPU or a
Gaudi card. Code outside this folder never checks which hardware there is, imports a vendor's package or sets its
environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fairseq.device import base, hpu_environment
from fairseq.device.base import Device, Forms
from fairseq.device.cuda import CudaDevice
from fairseq.device.hpu import HpuDevice
from fairseq.device.lazy import LazyDevice

if TYPE_CHECKING:
    from omegaconf import DictConfig

# The values of `common.device`. A new kind of device needs a file and a line here.
KINDS: dict[str, Callable[[int], Device]] = {
    "cpu": Device,
    "cuda": CudaDevice,
    "hpu": HpuDevice,
    "lazy": LazyDevice,
}
_DEVICES: dict[str, Device] = {kind: KINDS[kind](0) for kind in ("cpu", "cuda", "lazy")}  # by the tensors' device type
_STAND_INS: dict[str, Device] = {}  # see stood_in
_FORMS = Forms()  # set by `forced` for every device, including one that is selected inside it


def get(device: str | torch.device) -> Device:
    """Return the device of a torch device type; types without one of their own (meta) get the CPU's."""
    kind = torch.device(device).type
    return _DEVICES.get(kind, _DEVICES["cpu"])


def of(tensor: Tensor) -> Device:
    """Return the device that holds a tensor."""
    return _DEVICES.get(tensor.device.type, _DEVICES["cpu"])


def of_config(common: DictConfig) -> Device:
    """Return the device that a config asks for, unclaimed: for questions before a run opens it."""
    return _make(asked_for(common))


def takes_hpu_arms(tensor: Tensor) -> bool:
    """Whether branches marked `# hpu:` run for this tensor: on an HPU, or if a test forces them."""
    return of(tensor).takes_hpu_arms


def select(common: DictConfig, local_rank: int = 0) -> Device:
    """Return the device that a run trains on (see `asked_for`), claimed for this process.

    Raises:
        ValueError: there is no device for this local rank, or the device's software is not installed.
    """
    kind = asked_for(common)
    device = _make(kind, local_rank)
    if (absent := device.missing()) is not None:
        raise ValueError(absent)
    device.notes = prepare_process(common)
    device.claim()
    _DEVICES[device.torch_device.type] = device.with_forms(_FORMS)
    return device


def asked_for(common: DictConfig) -> str:
    """Return the kind of device: `common.device`, else by `common.hpu` or `cpu`, else a GPU if there is one."""
    if common.device is not None:
        return str(common.device)
    if common.hpu:
        return "hpu"
    return "cpu" if common.cpu or not torch.cuda.is_available() else "cuda"


def known() -> list[Device]:
    """Return the devices that can hold this process's tensors: CPU, GPU, lazy, and the selected one."""
    return list(_DEVICES.values())


def count(common: DictConfig) -> int:
    """Number of a run's processes that this machine can hold: one per card, or one per core on CPU."""
    return of_config(common).count()


def _make(kind: str, index: int = 0) -> Device:
    return _STAND_INS.get(kind) or KINDS[kind](index)


def missing(common: DictConfig) -> str | None:
    """Return why this machine cannot train on the config's device, and what to do; None if it can."""
    return of_config(common).missing()


def problems(common: DictConfig) -> list[str]:
    """What `common` asks for that its device cannot do, each with the way out.

    Only of a device that the config names: which one a run has otherwise depends on the machine.
    """
    is_named = common.device is not None or common.hpu or common.cpu
    return list(of_config(common).problems(common)) if is_named else []


def prepare_process(common: DictConfig) -> list[base.Note]:
    """Set the environment variables that the device's software reads at import; `select` does both.

    Call it in the process that will own the device. With several processes, RANK, LOCAL_RANK and WORLD_SIZE must be
    set. See `hpu_environment.prepare`.

    Returns:
        Lines for the log.
    """
    return hpu_environment.prepare(common, os.environ) if asked_for(common) == "hpu" else []


@contextmanager
def stood_in(device: Device) -> Iterator[None]:
    """Replace the device of type `device.type` within the context; `select` returns the replacement too."""
    before = _DEVICES[device.type]
    _STAND_INS[device.type] = device
    _DEVICES[device.type] = device.with_forms(_FORMS)
    try:
        yield
    finally:
        _DEVICES[device.type] = before
        del _STAND_INS[device.type]


@contextmanager
def forced(
    conv_form: str | None = None,
    pos_conv_form: str | None = None,
    attention_form: str | None = None,
    hpu_arms: bool = False,
) -> Iterator[None]:
    """Force forms, and with `hpu_arms` the branches marked `# hpu:`, on every device; tests compare arms with it."""
    global _FORMS
    outer, _FORMS = _FORMS, Forms(conv_form, pos_conv_form, attention_form, hpu_arms)
    before = dict(_DEVICES)
    within = {kind: device.with_forms(_FORMS) for kind, device in before.items()}
    _DEVICES.update(within)
    try:
        yield
    finally:
        _FORMS = outer
        for kind, device in list(_DEVICES.items()):  # keep one that was selected inside the context
            _DEVICES[kind] = before[kind] if device is within.get(kind) else device.with_forms(outer)
