"""Sums on the device, fetched at once."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf

from fairseq import device as device_layer
from fairseq.dataclass.configs import CommonConfig
from fairseq.device import Device
from fairseq.training.statistics import Interval, Statistics


def values(loss: float, count: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "count": torch.tensor(count)}


def test_sums_over_forwards_and_updates_until_fetched() -> None:
    statistics = Statistics(Device())
    statistics.add(values(1.0, 2.0))
    statistics.add(values(3.0, 4.0))
    statistics.count(num_forwards=2)
    statistics.commit()
    statistics.add(values(10.0, 1.0))
    statistics.commit()
    fetched = statistics.fetch([torch.tensor(7.0)])
    assert (
        fetched.logged == {"loss": 14.0, "count": 7.0}
        and fetched.counted == {"num_forwards": 2.0}
        and fetched.extra == [7.0]
    )
    again = statistics.fetch()
    assert again.logged == {"loss": 0.0, "count": 0.0} and again.counted == {"num_forwards": 0.0}


@pytest.mark.parametrize("found_inf", [None, torch.tensor(1.0)])
def test_a_skipped_update_adds_nothing(found_inf: torch.Tensor | None) -> None:
    statistics = Statistics(Device())
    statistics.add(values(1.0, 1.0))
    statistics.commit(torch.tensor(0.0))
    statistics.add(values(math.nan if found_inf is None else 5.0, 3.0))
    statistics.commit(found_inf)
    assert statistics.fetch()[0] == {"loss": 1.0, "count": 1.0}


def test_nothing_logged_yet_fetches_nothing() -> None:
    assert Statistics(Device()).fetch([torch.tensor(1.0)]) == ({}, {}, [1.0])


def test_vectors_are_summed_beside_numbers() -> None:
    """A histogram next to a 0-dim value: each comes back in its own form, and a skipped update adds neither."""
    statistics = Statistics(Device())
    for found_inf in (0.0, 1.0, 0.0):
        statistics.add({"loss": torch.tensor(2.0), "used": torch.tensor([1.0, 0.0, 3.0]), "count": torch.tensor(1)})
        statistics.commit(torch.tensor(found_inf))
    statistics.count(updates=2)
    fetched = statistics.fetch([torch.tensor(7.0)])
    assert fetched.logged == {"loss": 4.0, "used": [2.0, 0.0, 6.0], "count": 2.0}
    assert fetched.counted == {"updates": 2.0} and fetched.extra == [7.0]
    assert statistics.fetch().logged == {"loss": 0.0, "used": [0.0, 0.0, 0.0], "count": 0.0}


def test_the_hosts_counts_are_exact_where_the_device_has_float32(fake_habana: ModuleType) -> None:
    statistics = Statistics(device_layer.select(OmegaConf.structured(CommonConfig(hpu=True))))
    statistics.add(values(1.0, 2.0))
    for _ in range(3):
        statistics.count(samples=2**24 + 1)
    statistics.commit()
    fetched = statistics.fetch()
    assert (
        statistics.dtype == torch.float32
        and fetched.counted == {"samples": 3 * (2**24 + 1)}
        and fetched.logged["count"] == 2.0
    )


def test_an_interval_in_two_parts_is_their_sum() -> None:
    first = Interval({"loss": 1.5, "counts": [1, 2]}, {"num_updates": 1.0}, [0.5])
    second = Interval({"loss": 2.0, "counts": [0, 5]}, {"num_updates": 2.0, "few_masked": 1.0}, [0.25, 4.0])
    both = first.then(second)
    assert both == ({"loss": 3.5, "counts": [1, 7]}, {"num_updates": 3.0, "few_masked": 1.0}, [0.5, 0.25, 4.0])
    assert Interval({}, {}, []).then(second) == second
