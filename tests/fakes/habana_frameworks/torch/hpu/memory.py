"""`torch.hpu.memory`, with the numbers of a card of 96 GB."""

from __future__ import annotations

from habana_frameworks import recorder

LIMIT = 96 * 2**30
in_use = 10 * 2**30
peak = 40 * 2**30


def memory_allocated(device: object = None) -> int:
    return in_use


def max_memory_allocated(device: object = None) -> int:
    return peak


def memory_reserved(device: object = None) -> int:
    return LIMIT


def reset_peak_memory_stats(device: object = None) -> None:
    recorder.note("reset_peak_memory_stats", device=device)


def mem_get_info(device: object = None) -> tuple[int, int]:
    return LIMIT - in_use, LIMIT


def memory_stats(device: object = None) -> dict[str, int]:
    return {"Limit": LIMIT, "InUse": in_use, "MaxInUse": peak}
