"""`torch.hpu.random`: tensors and generator are the CPU's."""

from __future__ import annotations

import torch
from torch import Tensor


def manual_seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    manual_seed(seed)


def seed() -> int:
    return torch.default_generator.seed()


def initial_seed() -> int:
    return torch.default_generator.initial_seed()


def get_rng_state(device: object = "hpu") -> Tensor:
    return torch.default_generator.get_state()


def set_rng_state(new_state: Tensor, device: object = "hpu") -> None:
    torch.default_generator.set_state(new_state)


def get_rng_state_all() -> list[Tensor]:
    return [get_rng_state()]


def set_rng_state_all(new_states: list[Tensor]) -> None:
    set_rng_state(new_states[0])
