"""The device layer: what the rest of the package asks of the hardware.

`base.Device` is the contract and the CPU's answer to it; `cuda` and `hpu` answer where a GPU or a Gaudi card differs.
Nothing outside this folder asks which hardware there is, imports a vendor's package or sets its environment variables.
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

# `common.device` takes these names. A new kind of device is a file and a line here.
KINDS: dict[str, Callable[[int], Device]] = {
    "cpu": Device,
    "cuda": CudaDevice,
    "hpu": HpuDevice,
    "lazy": LazyDevice,
}
_DEVICES: dict[str, Device] = {kind: KINDS[kind](0) for kind in ("cpu", "cuda", "lazy")}  # by their tensors' type
_STAND_INS: dict[str, Device] = {}  # see stood_in
_FORMS = Forms()  # what `forced` asks of every device, those that are selected meanwhile included


def get(device: str | torch.device) -> Device:
    """The contract of a device type; types without an entry of their own (meta) get the CPU's."""
    kind = torch.device(device).type
    return _DEVICES.get(kind, _DEVICES["cpu"])


def of(tensor: Tensor) -> Device:
    """The contract of the device that a tensor lives on."""
    return _DEVICES.get(tensor.device.type, _DEVICES["cpu"])


def of_config(common: DictConfig) -> Device:
    """The device that a config means (`asked_for`), not claimed: what can be asked before a run opens it."""
    return _make(asked_for(common))


def takes_hpu_arms(tensor: Tensor) -> bool:
    """Whether branches marked `# hpu:` run for this tensor: on an HPU, or where a test forces them."""
    return of(tensor).takes_hpu_arms


def select(common: DictConfig, local_rank: int = 0) -> Device:
    """The device that a run trains on, claimed for this process: the one that `common.device` names, see `asked_for`.

    Raises:
        ValueError: the local rank has no device of its own, or the device's software is not installed.
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
    """The kind of device that a config means: `common.device`, else `hpu` or `cpu` by its key, else a GPU where
    there is one.
    """
    if common.device is not None:
        return str(common.device)
    if common.hpu:
        return "hpu"
    return "cpu" if common.cpu or not torch.cuda.is_available() else "cuda"


def known() -> list[Device]:
    """The devices that tensors of this process may live on: the CPU, a GPU's type, and the one that was selected."""
    return list(_DEVICES.values())


def count(common: DictConfig) -> int:
    """How many processes of a run this machine can hold: one a card, or one a core on CPU."""
    return of_config(common).count()


def _make(kind: str, index: int = 0) -> Device:
    return _STAND_INS.get(kind) or KINDS[kind](index)


def missing(common: DictConfig) -> str | None:
    """What keeps this machine from training on the device that a config means, and the way out; None: nothing does."""
    return of_config(common).missing()


def problems(common: DictConfig) -> list[str]:
    """What `common` asks for that its device cannot do, each with the way out.

    Only of a device that the config names: which one a run has otherwise depends on the machine.
    """
    is_named = common.device is not None or common.hpu or common.cpu
    return list(of_config(common).problems(common)) if is_named else []


def prepare_process(common: DictConfig) -> list[base.Note]:
    """Set the environment variables that the device's software reads when it is imported; `select` calls this, and
    imports it.

    To be called in the process that will own the device, once RANK, LOCAL_RANK and WORLD_SIZE are in the environment
    where there are several. See `hpu_environment.prepare`.

    Returns:
        Lines for the log.
    """
    return hpu_environment.prepare(common, os.environ) if asked_for(common) == "hpu" else []


@contextmanager
def stood_in(device: Device) -> Iterator[None]:
    """Within, `device` answers for tensors of its type, and `select` gives it: `stand_in.StandIn()` for the CPU."""
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
    """Take the named forms, and with `hpu_arms` the branches marked `# hpu:`, whatever the device: the hook by
    which tests compare arms.
    """
    global _FORMS
    outer, _FORMS = _FORMS, Forms(conv_form, pos_conv_form, attention_form, hpu_arms)
    before = dict(_DEVICES)
    within = {kind: device.with_forms(_FORMS) for kind, device in before.items()}
    _DEVICES.update(within)
    try:
        yield
    finally:
        _FORMS = outer
        for kind, device in list(_DEVICES.items()):  # one that was selected meanwhile stays
            _DEVICES[kind] = before[kind] if device is within.get(kind) else device.with_forms(outer)
