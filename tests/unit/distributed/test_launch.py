"""Processes that are spawned, the groups that they talk over, and how many threads each takes."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed import launch, member, spawning, strategy, utils
from fairseq.distributed.failures import RunFailed


@pytest.fixture()
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


def test_processes_share_the_cores(environment: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    cores = member.device_layer.base.available_cores()
    try:
        member.limit_threads(0, local_processes=max(1, cores))
        assert torch.get_num_threads() == 1
        member.limit_threads(1, local_processes=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_processes_but_the_first_show_logged_warnings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.INFO)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        member.be_quiet()
        warnings.warn("every process would say this", stacklevel=1)
    assert shown == [] and root.level == logging.WARNING


def test_collectives_of_a_single_process() -> None:
    tensor = torch.ones(2)
    assert utils.all_reduce(tensor) is tensor and utils.all_gather_list("x") == ["x"] and utils.broadcast_object(5) == 5
    assert utils.get_rank() == 0 and utils.get_world_size() == 1 and utils.is_master()
    with pytest.raises(ValueError, match="must be one of: sum, max, min"):
        utils.all_reduce(tensor, op="avg")
    assert utils.sum_on_host([3, 2**53]) == [3.0, 2.0**53]


# -- spawned processes (torch.distributed over gloo, on CPU) -----------------------------------------------------------


def small_config(**common: Any) -> DictConfig:
    return resolve_config(
        {
            "common": {"cpu": True, "threads_per_process": 1, **common},
            "distributed_training": {"distributed_world_size": 2},
        }
    )


def write_place(cfg: DictConfig, folder: str) -> None:
    """Leaves what this process knows of itself in a file of its rank."""
    training = cfg.distributed_training
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    reduced = utils.all_reduce(torch.tensor([1.0, utils.get_rank()]))
    handle = utils.all_reduce(torch.ones(1), async_op=True)
    handle.wait()
    found = {
        "environment": [int(os.environ[name]) for name in names],
        "config": [
            training.distributed_rank,
            training.device_id,
            training.distributed_world_size,
            training.nprocs_per_node,
        ],
        "reduced": reduced.tolist(),
        "on_host": utils.sum_on_host([2**52 + utils.get_rank(), 0.5]),
        "gathered": utils.all_gather_list({"rank": utils.get_rank()}),
        "broadcast": utils.broadcast_object(f"from {utils.get_rank()}", src_rank=1),
    }
    utils.barrier()
    (Path(folder) / f"{utils.get_rank()}.json").write_text(json.dumps(found))


def leave_an_exchange_unasked(cfg: DictConfig, folder: str) -> None:
    """The second process begins it a while after the first one's end."""
    if utils.get_rank() == 1:
        time.sleep(0.5)
    utils.begin_max_on_host(float(utils.get_rank()))
    (Path(folder) / f"{utils.get_rank()}.txt").write_text(str(time.monotonic()))


def refuse_on_the_second(cfg: DictConfig) -> None:
    if utils.get_rank() == 1:
        raise ConfigError(["task.data is wrong."])
    utils.barrier()  # the other process would wait for ever


def talk_and_wait_for_a_signal(cfg: DictConfig, folder: str) -> None:
    write_place(cfg, folder)
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    (Path(folder) / f"ready{utils.get_rank()}").touch()
    if utils.get_rank() == 0:
        while not (Path(folder) / "ready1").exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    (Path(folder) / f"seen{utils.get_rank()}").write_text(str(seen))


@pytest.mark.process
def test_spawned_processes_know_their_place_and_talk_and_get_the_parents_signals(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    launch.call_main(small_config(), talk_and_wait_for_a_signal, folder=str(tmp_path))
    assert signal.getsignal(signal.SIGUSR1) == before
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["environment"] == found["config"] == [rank, rank, 2, 2]
        assert found["reduced"] == [2.0, 1.0] and found["on_host"] == [2.0**53 + 1, 1.0]
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}] and found["broadcast"] == "from 1"
        assert (tmp_path / f"seen{rank}").read_text() == f"[{int(signal.SIGUSR1)}]"


@pytest.mark.process
def test_an_exchange_that_nobody_asked_for_ends_before_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch.call_main(small_config(), leave_an_exchange_unasked, folder=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"0.txt", "1.txt"}

    steps: list[str] = []

    class Exchange:
        def wait(self) -> None:
            steps.append("waited")

    monkeypatch.setattr(utils, "_BEGUN", [Exchange()])
    monkeypatch.setattr(utils, "barrier", lambda: steps.append("met"))
    monkeypatch.setattr(utils.dist, "destroy_process_group", lambda: steps.append("destroyed"))
    utils.close_groups(together=True)
    assert steps == ["waited", "met", "destroyed"]
    steps.clear()
    monkeypatch.setattr(utils, "_BEGUN", [Exchange()])
    utils.close_groups(together=False)  # another process may have failed: nobody is waited for
    assert steps == ["destroyed"]


def test_spawned_processes_meet_where_only_this_machine_can_reach() -> None:
    with spawning._listen(-1) as listener:
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(
            ConfigError,
            match=rf"distributed_training.distributed_port={port}: cannot listen \(Address already",
        ):
            spawning._listen(port)
    with pytest.raises(ConfigError, match="distributed_port=70000: .*ports are 1 to 65535"):
        spawning._listen(70000)


def wait_for_one_that_does_not_come(cfg: DictConfig) -> None:
    if utils.get_rank() == 0:
        utils.barrier()
    time.sleep(60)


@pytest.mark.process
def test_the_wait_for_another_process_is_bounded() -> None:
    cfg = small_config()
    cfg.distributed_training.distributed_timeout = 2
    began = time.monotonic()
    with pytest.raises(RunFailed, match="(?i)timed out|timeout"):
        launch.call_main(cfg, wait_for_one_that_does_not_come)
    assert time.monotonic() - began < 55


@pytest.mark.process
def test_what_one_process_finds_wrong_comes_back_as_it_is() -> None:
    with pytest.raises(ConfigError, match="task.data is wrong"):
        launch.call_main(small_config(), refuse_on_the_second)


# -- options of DistributedDataParallel --------------------------------------------------------------------------------


def test_the_devices_options_stand_in_for_defaults_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def stands_in(model: torch.nn.Module, **options: Any) -> torch.nn.Module:
        seen.update(options)
        return model

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", stands_in)
    cfg = resolve_config({"distributed_training": {"bucket_cap_mb": 50}}).distributed_training
    strategy.distribute(
        torch.nn.Linear(1, 1), cfg, {"device_ids": None, "bucket_cap_mb": 300, "gradient_as_bucket_view": True}
    )
    assert seen == {
        "device_ids": None,
        "bucket_cap_mb": 50,
        "gradient_as_bucket_view": True,
        "find_unused_parameters": False,
        "broadcast_buffers": False,
    }
