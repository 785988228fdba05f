"""Shards of tensors, as one process of three sees them; the process group is torch's stand-in, without the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq.distributed import sharding
from fairseq.distributed.fully_sharded import parts_of, shard_dim, skeleton

pytestmark = pytest.mark.skipif(torch.__version__ < "2.6", reason="fully_sharded needs torch 2.6")
WORLD = 3


@pytest.fixture()
def mesh(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The mesh of three processes, of which this is the one of the test's parameter."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=request.param, world_size=WORLD, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (WORLD,))
    finally:
        dist.destroy_process_group()


def like(whole: Tensor, mesh: Any, dim: int, rows: int) -> Tensor:
    """A sharded tensor of the whole one's shape, with these rows here."""
    from torch.distributed.tensor import DTensor, Shard

    local = torch.zeros([rows if number == dim else size for number, size in enumerate(whole.shape)])
    return DTensor.from_local(local, mesh, [Shard(dim)], run_check=False, shape=whole.shape, stride=whole.stride())


@pytest.mark.parametrize(
    ("mesh", "rows"), [(0, slice(0, 3)), (1, slice(3, 6)), (2, slice(6, 7))], indirect=["mesh"], ids=["0", "1", "2"]
)
def test_an_uneven_shard(mesh: Any, rows: slice) -> None:
    whole = torch.arange(14.0).view(7, 2)
    layout = like(whole, mesh, 0, len(range(7)[rows]))
    found = sharding.sharded_like(whole, layout)
    assert torch.equal(sharding.plain(found), whole[rows]) and found.shape == whole.shape
    whole.zero_()  # the shard does not keep it
    assert sharding.plain(found).sum() > 0


@pytest.mark.parametrize("mesh", [2], indirect=True)
def test_an_empty_shard_and_one_of_another_dimension(mesh: Any) -> None:
    gain, codebook = torch.ones(1, 1, 7), torch.arange(12.0).view(1, 6, 2)
    assert sharding.plain(sharding.sharded_like(gain, like(gain, mesh, 0, 0))).shape == (0, 1, 7)
    found = sharding.plain(sharding.sharded_like(codebook, like(codebook, mesh, 1, 2)))
    assert torch.equal(found, codebook[:, 4:])


@pytest.mark.parametrize("mesh", [0], indirect=True)
def test_what_stays_whole(mesh: Any) -> None:
    tensor = torch.ones(3, 2)
    assert sharding.sharded_like(tensor, torch.zeros(3, 2)) is tensor
    assert sharding.sharded_like(tensor, like(torch.ones(4, 2), mesh, 0, 2)) is tensor  # its shape is an error
    assert sharding.plain(tensor) is tensor
    shared = like(tensor, mesh, 0, 1)
    sharding.plain(shared).fill_(5)
    assert sharding.plain(shared)[0, 0] == 5


def test_over_parameters_of_nested_optimizers() -> None:
    entry = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}
    groups = [{"params": [0], "lr": 1.0}]
    state = {"one": {"state": {0: entry}, "param_groups": groups}, "scale": 2.0}
    state["two"] = {"state": {}, "param_groups": groups}
    state["three"] = {"state": {0: entry}, "param_groups": groups}
    found = sharding.over_parameters(state, [10, 20, 30], lambda value, item: value * item)
    assert found["one"]["state"][0]["exp_avg"].tolist() == [10, 10]
    assert found["three"]["state"][0]["exp_avg"].tolist() == [30, 30]
    assert found["three"]["state"][0]["step"] == 3 and found["scale"] == 2.0
    assert entry["exp_avg"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("shape", "world_size", "dim"),
    [((768, 512), 8, 0), ((7,), 4, 0), ((1, 640, 128), 8, 1), ((1, 1, 128), 64, 2), ((1, 1, 15), 2, 0), ((32,), 64, 0)],
)
def test_the_dimension_of_shards(shape: tuple[int, ...], world_size: int, dim: int) -> None:
    assert shard_dim(torch.Size(shape), world_size) == dim


def test_a_skeleton_has_no_memory_and_takes_weights_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    with skeleton():
        model = nn.Linear(2, 3)
        model.load_state_dict(nn.Linear(2, 3, device="cpu").state_dict())
    assert model.weight.is_meta and not recwarn.list


def test_models_without_parts() -> None:
    assert parts_of(nn.Linear(1, 1)) == []
