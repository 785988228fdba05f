"""Where a process stands, and how many threads it takes."""

from __future__ import annotations

import pytest
import torch

from fairseq.distributed import launch, utils


@pytest.fixture()
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_no_launcher(environment: pytest.MonkeyPatch) -> None:
    assert launch.place_from_environment() is None


def test_torchrun(environment: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 11, "WORLD_SIZE": 16, "LOCAL_RANK": 3, "LOCAL_WORLD_SIZE": 8, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        environment.setenv(name, str(value))
    assert launch.place_from_environment() == launch.Place(rank=11, local_rank=3, world_size=16, local_world_size=8)


def test_half_an_environment_is_an_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WORLD_SIZE", "2")
    environment.setenv("RANK", "0")
    with pytest.raises(ValueError, match="MASTER_ADDR, MASTER_PORT"):
        launch.place_from_environment()


def test_processes_share_the_cores(environment: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    cores = launch.device_layer.base.available_cores()
    try:
        launch.limit_threads(0, local_processes=max(1, cores))
        assert torch.get_num_threads() == 1
        launch.limit_threads(1, local_processes=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_collectives_of_a_single_process() -> None:
    tensor = torch.ones(2)
    assert utils.all_reduce(tensor) is tensor and utils.all_gather_list("x") == ["x"] and utils.broadcast_object(5) == 5
    assert utils.get_rank() == 0 and utils.get_world_size() == 1 and utils.is_master()
    with pytest.raises(ValueError, match="sum, max or min"):
        utils.all_reduce(tensor, op="avg")
