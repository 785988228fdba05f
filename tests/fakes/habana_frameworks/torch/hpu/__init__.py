"""`torch.hpu`, without empty_cache and reset_max_memory_allocated: the pool holds all of the card's memory."""

from __future__ import annotations

from habana_frameworks import recorder
from habana_frameworks.torch.hpu.graphs import HPUGraph, ModuleCacher, make_graphed_callables, wrap_in_hpu_graph
from habana_frameworks.torch.hpu.memory import (
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    reset_peak_memory_stats,
)
from habana_frameworks.torch.hpu.random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    set_rng_state,
    set_rng_state_all,
)

__all__ = [
    "Event",
    "HPUGraph",
    "ModuleCacher",
    "Stream",
    "current_device",
    "device_count",
    "get_device_name",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "make_graphed_callables",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_peak_memory_stats",
    "seed",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "synchronize",
    "wrap_in_hpu_graph",
]


class Stream:
    def __init__(self, device: int | None = None, priority: int = 0) -> None:
        recorder.note("Stream", device=device, priority=priority)


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        recorder.note("Event", enable_timing=enable_timing)


def is_available() -> bool:
    return True


def device_count() -> int:
    return 8


def current_device() -> int:
    return 0


def set_device(device: int) -> None:
    if device != 0:
        raise RuntimeError("a process has one card, number 0")


def get_device_name(device: int | None = None) -> str:
    recorder.note("get_device_name", device=device)
    return "GAUDI2"


def is_bf16_supported() -> bool:
    return True


def init() -> None:
    recorder.note("init")


def is_initialized() -> bool:
    return True


def synchronize() -> None:
    recorder.note("synchronize")
